/* fuzz_npy.c - arbitrary bytes as a .npy file: examples/npy.h must refuse or read them, and touch
 * nothing else. With libFuzzer, or alone: 20,000 mutations of the fixtures (another
 * number as argument) under the sanitizers.
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER -I. tests/fuzz_npy.c -o build/fuzz_npy
 * cc -g -O1 -fsanitize=address,undefined -I. tests/fuzz_npy.c -o build/fuzz_npy && build/fuzz_npy */
#include "examples/npy.h"

#include "fuzz.h"

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
int main(int count, char **arguments)
{
    static const char *const seeds[] = {
        "ok_v1.npy", "ok_v2.npy", "ok_fortran.npy",           "ok_f2.npy",      "ok_u8.npy",
        "ok_0d.npy", "ok_b1.npy", "ok_spacing_and_order.npy", "bad_struct.npy", "bad_short.npy",
        NULL};
    static const char telling[] = "{}()[]',:\"\\LTF09-<>|\n ";
    const fuzz_plan plan = {"tests/fixtures/npy", seeds, 20000, telling, sizeof telling - 1, 0};
    return fuzz_main(count, arguments, &plan);
}
#endif
