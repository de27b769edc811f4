/* fuzz_npy.c - arbitrary bytes as a .npy file: examples/npy.h must refuse or read them, and touch
 * nothing else. With libFuzzer, or alone: 20,000 mutations of the fixtures under the sanitizers.
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER -I. tests/fuzz_npy.c -o build/fuzz_npy
 * cc -g -O1 -fsanitize=address,undefined -I. tests/fuzz_npy.c -o build/fuzz_npy && build/fuzz_npy */
#include "examples/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The bytes go through a file, as in life, but one in memory: a disk would take most of the time. Reading
 * one takes at most the memory of its numbers. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FILE *file = size ? fmemopen((void *)(uintptr_t)data, size, "rb") : NULL;
    npy_header h;
    char text[NPY_TEXT];
    if (!file) return 0;
    if (npy_open_header(&h, file, "fuzz", text)) {
        float *values = (float *)malloc((size_t)h.count * sizeof *values + 1);
        size_t height, width;
        if (values) npy_read_values(values, &h, file, "fuzz", text);
        npy_image_shape(&height, &width, &h, "fuzz", text);
        free(values);
    }
    fclose(file);
    return 0;
}

#ifndef FUZZ_LIBFUZZER
static uint64_t state = 1;

static uint64_t draw(uint64_t bound) /* splitmix64 */
{
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (z ^ z >> 31) % bound;
}

/* Some of: change a byte, put a telling character, cut, repeat a piece. */
static size_t mutate(uint8_t *data, size_t size, size_t capacity)
{
    static const char telling[] = "{}()[]',:\"\\LTF09-<>|\n ";
    uint64_t n = 1 + draw(4);
    while (n--) {
        size_t at = size ? (size_t)draw(size) : 0;
        switch (draw(4)) {
        case 0:
            if (size) data[at] = (uint8_t)draw(256);
            break;
        case 1:
            if (size) data[at] = (uint8_t)telling[draw(sizeof telling - 1)];
            break;
        case 2: size -= (size_t)draw(size / 4 + 1); break;
        default: {
            size_t length = size - at < 16 ? size - at : 16;
            if (size + length <= capacity) {
                memmove(data + at + length, data + at, size - at);
                size += length;
            }
        }
        }
    }
    return size;
}

int main(void)
{
    static const char *const seeds[] = {"ok_v1",     "ok_v2", "ok_fortran",           "ok_f2",
                                        "ok_u8",     "ok_0d", "ok_spacing_and_order", "bad_struct",
                                        "bad_short", "ok_b1"};
    const size_t count = sizeof seeds / sizeof *seeds;
    uint8_t original[1024], data[2048];
    int round;
    for (round = 0; round < 20000; round++) {
        char path[96];
        FILE *file;
        size_t size;
        snprintf(path, sizeof path, "tests/fixtures/npy/%s.npy", seeds[draw(count)]);
        file = fopen(path, "rb");
        if (!file) {
            printf("%s is missing; run from the top folder\n0 passed, 1 failed\n", path);
            return 1;
        }
        size = fread(original, 1, sizeof original, file);
        fclose(file);
        memcpy(data, original, size);
        LLVMFuzzerTestOneInput(data, mutate(data, size, sizeof data));
    }
    printf("%d files read\n1 passed, 0 failed\n", round);
    return 0;
}
#endif
