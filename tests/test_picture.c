/* test_picture.c - examples/picture.h, fits.h, zip.h and pickle.h on files that NumPy and astropy wrote
 * (tests/fixtures/pictures, made by tools/make_picture_fixtures.py) and on some written here.
 * cc -O2 -I. tests/test_picture.c -o build/test_picture -lm */
#include "examples/picture.h"
#include "test.h"

#define FOLDER  "tests/fixtures/pictures/"
#define SCRATCH "build/test_picture.tmp.npy"

static char text[NPY_TEXT];

/* Reads FOLDER/name and compares every pixel with scale * (13 y + x + 200 b) + zero. */
static void check_pixels(const char *name, size_t bands, double scale, double zero)
{
    char path[128];
    picture p;
    size_t b, y, x, wrong = 0, odd = 0;
    int good;
    snprintf(path, sizeof path, FOLDER "%s", name);
    text[0] = 0;
    good = picture_read(&p, path, bands, text);
    test_check(good, text[0] ? text : name, __FILE__, __LINE__);
    if (!good) return;
    good = p.bands == bands && p.height == 12 && p.width == 13;
    test_check(good, name, __FILE__, __LINE__);
    for (b = 0; good && b < p.bands; b++)
        for (y = 0; y < 12; y++)
            for (x = 0; x < 13; x++) {
                float v = p.pixels[(b * 12 + y) * 13 + x];
                odd += v != v;
                wrong += v == v && v != (float)(scale * (double)(13 * y + x + 200 * b) + zero);
            }
    test_check(wrong == 0 && odd <= 1, name, __FILE__, __LINE__);
    picture_free(&p);
}

/* Refused, with a sentence that holds the path and `word`. */
static void check_refused(const char *path, size_t bands, const char *word)
{
    picture p;
    text[0] = 0;
    test_check(!picture_read(&p, path, bands, text), path, __FILE__, __LINE__);
    test_check(strstr(text, path) && strstr(text, word), text, __FILE__, __LINE__);
    CHECK(!picture_read(&p, path, bands, NULL));
}

static size_t count_of(const char *path)
{
    size_t count = 0;
    test_check(picture_count(&count, path, text), path, __FILE__, __LINE__);
    return count;
}

static void check_objects(void)
{
    FILE *executed;
    check_pixels("pair_2.npy", 1, 1, 0);
    check_pixels("pair_3.npy", 1, 1, 0);
    check_pixels("pair_4.npy", 1, 1, 0);
    check_pixels("pair_5.npy", 1, 1, 0);
    check_pixels("pair_f4_big.npy", 1, 1, 0);
    check_pixels("pair_rows.npy", 1, 1, 0);
    check_pixels("several.npy[1]", 1, 1, 1000);
    check_pixels("evil_pair.npy", 1, 1, 0);
    check_refused(FOLDER "several.npy", 1, "a stack of 2 images");
    check_refused(FOLDER "evil.npy", 1, "without an array of numbers");
    check_refused(FOLDER "cut_pair.npy", 1, "cut off");
    executed = fopen("evil", "rb");
    CHECK(!executed);
}

static void check_zip(void)
{
    check_pixels("stored.npz", 1, 1, 0);
    check_pixels("deflated.npz", 1, 1, 0);
    check_refused(FOLDER "two.npz", 1, "2 files (a.npy, b.npy)");
    check_refused(FOLDER "bad_deflated.npz", 1, "is damaged");
    check_refused(FOLDER "bzip2.npz", 1, "packed by method 12");
}

/* A file as surveys make them: a primary unit without data, and one image for each name, unit n full of n and
 * a first pixel of 100 n. */
static const char *fits_with(const char *const *names)
{
    static const char path[] = "build/units.fits";
    static const char *const primary[] = {"SIMPLE  =                    T",
                                          "BITPIX  =                    8",
                                          "NAXIS   =                    0"};
    static const char *const image[] = {
        "XTENSION= 'IMAGE   '",           "BITPIX  =                    8",
        "NAXIS   =                    2", "NAXIS1  =                    2",
        "NAXIS2  =                    2", "PCOUNT  =                    0",
        "GCOUNT  =                    1"};
    FILE *file = fopen(path, "wb");
    int unit, i;
    for (unit = 0; file && (!unit || names[unit - 1]); unit++) {
        char block[2880];
        memset(block, ' ', sizeof block);
        for (i = 0; i < (unit ? 7 : 3); i++) {
            const char *card = unit ? image[i] : primary[i];
            memcpy(block + 80 * i, card, strlen(card));
        }
        if (unit) {
            char card[81];
            snprintf(card, sizeof card, "EXTNAME = '%s'", names[unit - 1]);
            memcpy(block + 80 * i++, card, strlen(card));
        }
        memcpy(block + 80 * i, "END", 3);
        fwrite(block, 1, sizeof block, file);
        memset(block, 0, sizeof block);
        memset(block, unit, 4);
        block[0] = (char)(10 * unit);
        if (unit) fwrite(block, 1, sizeof block, file);
    }
    if (file) fclose(file);
    return path;
}

/* Errors, weights and masks are no pictures of the sky, wherever they stand. */
static void check_fits_names(void)
{
    static const char *const sets[][4] = {{"ERR", "SCI", NULL},
                                          {"VAR_POISSON", "DQ", "SCI", NULL},
                                          {"wht", "anything", NULL},
                                          {"ERROR", "MASK", "", NULL}};
    static const char *const only[] = {"ERR", "MASK", NULL};
    picture p;
    size_t i, unit;
    for (i = 0; i < 4; i++) {
        for (unit = 1; sets[i][unit]; unit++) {
        }
        CHECK(picture_read(&p, fits_with(sets[i]), 1, text));
        CHECK(p.pixels[0] == (float)(10 * unit) && p.pixels[1] == (float)unit);
        picture_free(&p);
    }
    check_refused(fits_with(only), 1, "FILE[1]");
    CHECK(picture_read(&p, "build/units.fits[1]", 1, text) && p.pixels[1] == 1);
    picture_free(&p);
}

static void check_fits(void)
{
    picture p;
    check_pixels("u1.fits", 1, 1, 0);
    check_pixels("i2.fits", 1, 0.5, -20);
    check_pixels("u2.fits", 1, 1, 0);
    check_pixels("i8.fits", 1, 1, 0);
    check_pixels("f4.fits", 1, 1, 0);
    check_pixels("f8_extensions.fits", 1, 1, 0);
    check_pixels("f8_extensions.fits[2]", 1, 1, 1000);
    check_pixels("cube.fits[0][10]", 1, 1, 10000);
    check_pixels("bands.fits", 3, 1, 0);
    CHECK(count_of(FOLDER "cube.fits") == 11 && count_of(FOLDER "cube.fits[0][3]") == 1);
    CHECK(picture_read(&p, FOLDER "i2.fits", 1, text));
    CHECK(p.pixels[7] != p.pixels[7]); /* BLANK */
    CHECK(!strcmp(p.type, "int16") && !strcmp(p.shape, "12,13"));
    picture_free(&p);
    check_refused(FOLDER "cube.fits", 1, "a stack of 11 images");
    check_refused(FOLDER "cube.fits[0][11]", 1, "the first is [0]");
    check_refused(FOLDER "f8_extensions.fits[0]", 1, "holds no image");
    check_refused(FOLDER "f8_extensions.fits[3]", 1, "no unit 3");
    check_refused(FOLDER "compressed.fits", 1, "tile-compressed");
    check_refused(FOLDER "table.fits", 1, "without an image");
    check_refused(FOLDER "table.fits[1]", 1, "table (BINTABLE)");
    check_refused(FOLDER "cut.fits", 1, "cut short");
    check_refused(FOLDER "bands.fits", 1, "--bands 3");
}

static void check_sky(void)
{
    picture p;
    CHECK(picture_read(&p, FOLDER "f8_extensions.fits", 1, text));
    CHECK(p.has_sky && !strcmp(p.object, "it's \"lens\" 7") && p.pixel_scale == 0);
    CHECK_CLOSE(p.ra, 22.5, 1e-12, "RA of the primary header");
    CHECK_CLOSE(p.dec, -0.51, 1e-12, "DEC of the primary header");
    picture_free(&p);
    CHECK(picture_read(&p, FOLDER "f8_extensions.fits[2]", 1, text));
    CHECK_CLOSE(p.ra, 10, 1e-12, "the image's centre");
    CHECK_CLOSE(p.dec, 20, 1e-12, "the image's centre");
    CHECK_CLOSE(p.pixel_scale, 0.36, 1e-12, "pixel scale");
    picture_free(&p);
}

/* ---- layouts of .npy ---- */

static void write_array(int rank, size_t a, size_t b, size_t c, size_t d, double pedestal)
{
    double values[4096];
    size_t shape[4], i;
    shape[0] = a;
    shape[1] = b;
    shape[2] = c;
    shape[3] = d;
    for (i = 0; i < sizeof values / sizeof *values; i++) values[i] = pedestal + (double)i;
    CHECK(npy_write_double(SCRATCH, values, rank, shape, text));
}

/* Pixel (band, y, x) of what stands in SCRATCH is `expected`. */
static void check_at(const char *path, size_t bands, size_t height, size_t width, size_t place,
                     double expected)
{
    picture p;
    int good = picture_read(&p, path, bands, text);
    test_check(good, path, __FILE__, __LINE__);
    if (!good) return;
    CHECK(p.bands == bands && p.height == height && p.width == width);
    CHECK_CLOSE((double)p.pixels[place], expected, 0, path);
    picture_free(&p);
}

static void check_layouts(void)
{
    write_array(3, 11, 12, 3, 1, 0);
    check_at(SCRATCH, 3, 11, 12, (2 * 11 + 4) * 12 + 5, (4 * 12 + 5) * 3 + 2);
    check_refused(SCRATCH, 1, "3 bands, but grey images");
    check_refused(SCRATCH, 4, "but images of 4 are wanted");
    write_array(3, 3, 11, 12, 1, 0);
    check_at(SCRATCH, 3, 11, 12, (2 * 11 + 4) * 12 + 5, (2 * 11 + 4) * 12 + 5);
    write_array(3, 12, 11, 12, 1, 0);
    CHECK(count_of(SCRATCH) == 12);
    check_at(SCRATCH "[7]", 1, 11, 12, 4 * 12 + 5, (7 * 11 + 4) * 12 + 5);
    check_refused(SCRATCH, 1, "--stack");
    check_refused(SCRATCH "[12]", 1, "12 images");
    write_array(4, 2, 11, 12, 3, 0);
    check_at(SCRATCH "[1]", 3, 11, 12, (2 * 11 + 4) * 12 + 5, ((11 + 4) * 12 + 5) * 3 + 2);
    write_array(4, 2, 1, 11, 12, 0);
    check_at(SCRATCH "[1]", 1, 11, 12, 0, 11 * 12);
    write_array(3, 1, 2, 3, 1, 0);
    check_at(SCRATCH, 1, 2, 3, 5, 5);
    write_array(1, 64, 1, 1, 1, 0);
    check_refused(SCRATCH, 1, "its shape is (64)");
    write_array(3, 2, 3, 4, 1, 0);
    check_refused(SCRATCH, 1, "a stack of 2 images");
}

/* Doubles on a pedestal keep what they differ by; others are floats as they are. */
static void check_pedestal(void)
{
    picture p;
    double far;
    write_array(2, 20, 20, 1, 1, 1e8);
    CHECK(picture_read(&p, SCRATCH, 1, text));
    CHECK(p.offset != 0);
    CHECK_CLOSE((double)p.pixels[399] - (double)p.pixels[398], 1, 0, "neighbours differ by 1");
    CHECK_CLOSE((double)p.pixels[5] + p.offset, 1e8 + 5, 0, "the offset is what was taken off");
    picture_free(&p);
    write_array(2, 20, 20, 1, 1, 1e6);
    CHECK(picture_read(&p, SCRATCH, 1, text));
    CHECK(p.offset == 0);
    CHECK_CLOSE((double)p.pixels[5], 1e6 + 5, 0, "no offset where float does");
    picture_free(&p);
    far = 1e300;
    {
        size_t shape[2] = {1, 1};
        CHECK(npy_write_double(SCRATCH, &far, 2, shape, text));
    }
    check_refused(SCRATCH, 1, "1e+300, beyond what 32-bit");
}

/* ---- files that are something else ---- */

static void check_foreign(const char *bytes, size_t size, const char *word)
{
    FILE *file = fopen(SCRATCH, "wb");
    CHECK(file && fwrite(bytes, 1, size, file) == size && fclose(file) == 0);
    check_refused(SCRATCH, 1, word);
}

#define FOREIGN(bytes, word) check_foreign(bytes, sizeof bytes - 1, word)

static void check_strangers(void)
{
    FOREIGN("", "empty");
    FOREIGN("\211PNG\r\n", "PNG");
    FOREIGN("\377\330\377\340", "JPEG");
    FOREIGN("II*\0....", "TIFF");
    FOREIGN("\211HDF\r\n", "HDF5");
    FOREIGN("\037\213\010", "gunzip");
    FOREIGN("version https://git-lfs.github.com/spec/v1\n", "git lfs pull");
    FOREIGN("<!DOCTYPE html>", "HTML");
    FOREIGN("\200\004\225", "pickle");
    FOREIGN("PK\003\004 and so on", "end record");
    FOREIGN("SIMPLE  =                    T", "cut short");
    FOREIGN("hello", "first bytes");
    FOREIGN("\223NUMPY\1\0\106\0{'descr': '<V2', 'fortran_order': False, 'shape': (2, 2), }        "
            "    \n........",
            "bfloat16");
    check_refused("build", 1, "not a folder");
    check_refused("build/nowhere.npy", 1, strerror(ENOENT));
    check_refused("build/nowhere.npy[3]", 1, strerror(ENOENT));
}

/* ---- deflate ---- */

static void check_inflate(void)
{
    /* made by zlib: dynamic, fixed and stored blocks of the same text; then what is wrong */
    static const unsigned char fixed[] = {0x4b, 0x4c, 0x4a, 0x4e, 0x49, 0x4d, 0x4b,
                                          0x4c, 0x4a, 0x4e, 0x49, 0x4d, 0x03, 0x00};
    static const unsigned char stored[] = {0x01, 0x05, 0x00, 0xfa, 0xff, 'h', 'e', 'l', 'l', 'o'};
    unsigned char out[64];
    size_t cut;
    CHECK(zip_inflate(out, 12, fixed, sizeof fixed) && !memcmp(out, "abcdefabcdef", 12));
    CHECK(!zip_inflate(out, 11, fixed, sizeof fixed)); /* longer than it should be */
    CHECK(!zip_inflate(out, 13, fixed, sizeof fixed));
    for (cut = 0; cut + 1 < sizeof fixed; cut++) CHECK(!zip_inflate(out, 12, fixed, cut));
    CHECK(zip_inflate(out, 5, stored, sizeof stored) && !memcmp(out, "hello", 5));
    CHECK(!zip_inflate(out, 5, stored, sizeof stored - 1));
    CHECK(!zip_inflate(out, 5, (const unsigned char *)"\7", 1)); /* a fourth kind of block */
    CHECK(zip_checksum((const unsigned char *)"123456789", 9) == 0xcbf43926u);
}

int main(void)
{
    check_objects();
    check_zip();
    check_fits();
    check_fits_names();
    check_sky();
    check_layouts();
    check_pedestal();
    check_strangers();
    check_inflate();
    remove(SCRATCH);
    return test_end();
}
