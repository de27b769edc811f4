/* fuzz_picture.c - arbitrary bytes as FITS, .npz and pickled object arrays must never do more than fail
 * politely. With libFuzzer, or alone: 10,000 mutations (another number as argument) of files that NumPy and
 * astropy wrote, under the sanitizers.
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER -I. tests/fuzz_picture.c -o build/fuzz_picture
 * cc -g -O1 -fsanitize=address,undefined -I. tests/fuzz_picture.c -o build/fuzz_picture -lm && build/fuzz_picture */
#include "examples/picture.h"

#include "fuzz.h"

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
int main(int count, char **arguments)
{
    static const char *const seeds[] = {
        "pair_2.npy",  "pair_3.npy", "pair_4.npy", "pair_5.npy",      "pair_rows.npy",
        "several.npy", "evil.npy",   "stored.npz", "deflated.npz",    "two.npz",
        "i2.fits",     "cube.fits",  "f4.fits",    "compressed.fits", "f8_extensions.fits",
        "bands.fits",  "table.fits", "cut.fits",   "pair_f4_big.npy", NULL};
    static const char telling[] = "\0\1\377\200=-'9TRbhqKX.(t\x94\x85\x93 ";
    const fuzz_plan plan = {"tests/fixtures/pictures", seeds, 10000, telling,
                            sizeof telling - 1,        0};
    return fuzz_main(count, arguments, &plan);
}
#endif
