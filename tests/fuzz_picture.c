/* fuzz_picture.c - arbitrary bytes as FITS, .npz and pickled object arrays must never do more than fail
 * politely. On its own it changes files that NumPy and astropy wrote and reads what comes out;
 * FUZZ_SECONDS in the environment makes it go on so long, FUZZ_SEED begin elsewhere. With libFuzzer:
 *
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER -I. tests/fuzz_picture.c -o build/fuzz_picture
 * cc -g -O1 -fsanitize=address,undefined -I. tests/fuzz_picture.c -o build/fuzz_picture -lm && build/fuzz_picture */
#include "examples/picture.h"

#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is read must be whole: every pixel is touched. The bytes stay in memory: a file system would take
 * most of the time. */
static void read_image(const uint8_t *data, size_t size, const size_t numbers[2], int n)
{
    volatile float sum = 0;
    picture_file f;
    picture p;
    size_t k, frame;
    int one;
    char text[NPY_TEXT];
    memset(&f, 0, sizeof f);
    f.path = "fuzz";
    f.source = zip_from_memory(data, size);
    if (picture_recognise(&f, &frame, &one, numbers, n, text) &&
        picture_take(&p, &f, frame, one, 0, text)) {
        for (k = 0; k < p.bands * p.height * p.width; k++) sum = sum + p.pixels[k];
        picture_free(&p);
    }
    picture_close(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const size_t second[2] = {1, 0}, deep[2] = {0, 1};
    unsigned char out[1000];
    read_image(data, size, second, 0);
    read_image(data, size, second, 1);
    read_image(data, size, deep, 2);
    if (size) zip_inflate(out, data[0] + 300u, data + 1, size - 1);
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

/* Some of: change a bit or byte, put a telling byte, cut, repeat or move a piece. */
static size_t mutate(uint8_t *data, size_t size, size_t capacity)
{
    static const char telling[] = "\0\1\377\200=-'9TRbhqKX.(t\x94\x85\x93 ";
    uint64_t n = 1 + draw(4);
    while (n--) {
        size_t at = size ? (size_t)draw(size) : 0, from = size ? (size_t)draw(size) : 0;
        size_t length = size - at < 80 ? size - at : 80;
        switch (draw(6)) {
        case 0:
            if (size) data[at] = (uint8_t)draw(256);
            break;
        case 1:
            if (size) data[at] ^= (uint8_t)(1u << draw(8));
            break;
        case 2:
            if (size) data[at] = (uint8_t)telling[draw(sizeof telling - 1)];
            break;
        case 3: size -= (size_t)draw(size / 8 + 1); break;
        case 4: /* FITS cards are 80 characters */
            if (from > size - length) from = size - length;
            memmove(data + from, data + at, length);
            break;
        default:
            if (size + length > capacity) break;
            memmove(data + at + length, data + at, size - at);
            size += length;
        }
    }
    return size;
}

int main(void)
{
    static const char *const seeds[] = {
        "pair_2.npy",     "pair_3.npy", "pair_4.npy", "pair_5.npy",         "pair_rows.npy",
        "several.npy",    "evil.npy",   "stored.npz", "deflated.npz",       "two.npz",
        "i2.fits",        "cube.fits",  "f4.fits",    "f8_extensions.fits", "compressed.fits",
        "pair_f4_big.npy"};
    const size_t count = sizeof seeds / sizeof *seeds;
    const double seconds = getenv("FUZZ_SECONDS") ? atof(getenv("FUZZ_SECONDS")) : 0;
    static uint8_t original[16384], data[20000];
    long rounds = 0;
    if (getenv("FUZZ_SEED")) state = (uint64_t)atol(getenv("FUZZ_SEED"));
    while (rounds < 10000 || (double)clock() / CLOCKS_PER_SEC < seconds) {
        char path[96];
        FILE *file;
        size_t size;
        snprintf(path, sizeof path, "tests/fixtures/pictures/%s", seeds[draw(count)]);
        file = fopen(path, "rb");
        if (!file) {
            printf("%s is missing; run from the top folder\n0 passed, 1 failed\n", path);
            return 1;
        }
        size = fread(original, 1, sizeof original, file);
        fclose(file);
        memcpy(data, original, size);
        LLVMFuzzerTestOneInput(data, mutate(data, size, sizeof data));
        rounds++;
    }
    printf("%ld changed files read\n1 passed, 0 failed\n", rounds);
    return 0;
}
#endif
