/* test_npy.c - examples/npy.h against files that NumPy wrote and against malformed ones
 * (tests/fixtures/npy; ok_* must be read with the stated values, bad_* must be refused).
 * cc -O2 -fopenmp -I. tests/test_npy.c -o build/test_npy -lm */
#include "examples/npy.h"
#include "test.h"

#define FOLDER  "tests/fixtures/npy/"
#define SCRATCH "build/test_npy.tmp.npy"

static char text[NPY_TEXT];

/* Header and numbers; at most 64 of them. */
static int read_all(npy_header *h, float values[64], const char *path)
{
    FILE *file;
    int good = npy_read_header(h, path, text);
    if (!good || h->count > 64) return 0;
    file = fopen(path, "rb");
    if (!file) return 0;
    good = npy_read_values(values, h, file, path, text);
    fclose(file);
    return good;
}

/* The fixtures' numbers, made from a tensor's name as in tests/lngen.h. */
static float golden(const char *name, size_t index)
{
    const uint64_t step = 0x9E3779B97F4A7C15u;
    uint64_t z = 0xcbf29ce484222325u;
    while (*name) z = (z ^ (unsigned char)*name++) * 0x100000001b3u;
    z = (z ^ step) + (index + 1) * step;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (float)((double)((int64_t)(z >> 40) - (1 << 23)) / 8388608.0);
}

/* The same 12 numbers in three versions, both byte orders, three precisions. */
static void check_numbers(const char *path, double tolerance)
{
    npy_header h;
    float values[64];
    size_t i;
    int good = read_all(&h, values, path);
    test_check(good, path, __FILE__, __LINE__);
    if (!good) return;
    CHECK(h.rank == 3 && h.shape[0] == 1 && h.shape[1] == 3 && h.shape[2] == 4 && h.count == 12);
    for (i = 0; i < 12; i++) CHECK_CLOSE(values[i], golden("g.npy", i), tolerance, path);
}

static void check_order(void)
{
    npy_header h;
    float values[64];
    size_t i;
    CHECK(read_all(&h, values, FOLDER "ok_fortran.npy") && h.fortran_order);
    for (i = 0; i < 12; i++) CHECK_CLOSE(values[i], golden("g.npy2", i), 0, "Fortran order");
}

static void check_types(void)
{
    static const char *const types[] = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"};
    static const float expected[6] = {0, 1, 2, 3, 4, 100};
    size_t t, i;
    for (t = 0; t < sizeof types / sizeof *types; t++) {
        char path[64];
        npy_header h;
        float values[64];
        snprintf(path, sizeof path, FOLDER "ok_%s.npy", types[t]);
        CHECK(read_all(&h, values, path) && h.rank == 2 && h.count == 6 && h.kind == types[t][0]);
        for (i = 0; i < 6; i++)
            CHECK_CLOSE(values[i], t == 0 && i > 0 ? 1 : expected[i], 0, types[t]);
    }
}

static void check_spellings(void)
{
    static const char *const paths[] = {FOLDER "ok_py2_long.npy",
                                        FOLDER "ok_spacing_and_order.npy"};
    npy_header h;
    float values[64];
    size_t p, i;
    for (p = 0; p < 2; p++) {
        CHECK(read_all(&h, values, paths[p]) && h.rank == 2 && h.shape[0] == 2 && h.shape[1] == 3);
        for (i = 0; i < 6; i++) CHECK_CLOSE(values[i], (double)i, 0, paths[p]);
    }
    CHECK(read_all(&h, values, FOLDER "ok_0d.npy") && h.rank == 0 && h.count == 1);
    CHECK_CLOSE(values[0], 2.5, 0, "a single number");
    CHECK(read_all(&h, values, FOLDER "ok_empty.npy") && h.count == 0 && h.shape[1] == 5);
}

/* Refused, with a sentence that names the file and holds `word`. */
static void check_refused(const char *name, const char *word)
{
    char path[96];
    npy_header h;
    snprintf(path, sizeof path, FOLDER "%s", name);
    text[0] = 0;
    CHECK(!npy_read_header(&h, path, text));
    test_check(strstr(text, name) && strstr(text, word), text, __FILE__, __LINE__);
    CHECK(!npy_read_header(&h, path, NULL));
}

static void check_malformed(void)
{
    check_refused("bad_object.npy", "allow_pickle=True");
    check_refused("bad_struct.npy", "records");
    check_refused("bad_string_dtype.npy", "text");
    check_refused("bad_short.npy", "cut short");
    check_refused("bad_negative.npy", "negative");
    check_refused("bad_overflow.npy", "larger than any file");
    check_refused("bad_version9.npy", "9.0");
    check_refused("bad_header_len.npy", "60000");
    check_refused("bad_missing_key.npy", "fortran_order");
    check_refused("bad_magic.npy", "first bytes");
    check_refused("does_not_exist.npy", "cannot be opened");
    check_refused("", "cannot be read"); /* a folder */
}

/* A file of version 1 with this header and 24 bytes of numbers 0 ... 5. */
static int parse(npy_header *h, const char *dict)
{
    unsigned char bytes[512];
    size_t length = strlen(dict);
    memcpy(bytes, "\223NUMPY\001\000", 8);
    bytes[8] = (unsigned char)length;
    bytes[9] = (unsigned char)(length >> 8);
    memcpy(bytes + 10, dict, length);
    return npy_parse(h, bytes, 10 + length, 10 + length + 24, "file", text);
}

static void check_grammar(void)
{
    static const char *const refused[] = {
        "",
        "{}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6)}", /* a number, not a tuple */
        "{'descr': '<f4', 'fortran_order': False, 'shape': [6,]}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (06,)}", /* octal in Python 2 */
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'more': 1}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (6,)}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (6,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6,)} x",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6,)",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
        "{'descr': '<f3', 'fortran_order': False, 'shape': (6,)}",
        "{'descr': '<f1', 'fortran_order': False, 'shape': (6,)}",
        "{'descr': '<b2', 'fortran_order': False, 'shape': (6,)}",
        "{'descr': '<c8', 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f16', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '\\x3cf4', 'fortran_order': False, 'shape': (6,)}",
        "{'descr': '<f4, 'fortran_order': False, 'shape': (6,)}",
        "{'descr': ('<f4', (6,)), 'fortran_order': False, 'shape': ()}"};
    npy_header h;
    char deep[400];
    size_t i;
    for (i = 0; i < sizeof refused / sizeof *refused; i++)
        test_check(!parse(&h, refused[i]), refused[i], __FILE__, __LINE__);
    CHECK(parse(&h, "{'descr':'f4','fortran_order':False,'shape':(6,)}") && h.count == 6);
    CHECK(parse(&h, "\n{\"shape\"\t:(1l,\n2L,3,), 'descr': '=f4', 'fortran_order': True, } \n") &&
          h.count == 6 && h.rank == 3 && h.fortran_order);
    /* A 0 empties the array even beside numbers whose product would overflow. */
    CHECK(parse(&h, "{'descr': '<f8', 'fortran_order': False, "
                    "'shape': (9223372036854775807, 9223372036854775807, 0)}") &&
          h.count == 0);
    CHECK(parse(&h, "{'descr': '<i2', 'fortran_order': False, 'shape': (12,)}")); /* exactly fits */
    CHECK(!parse(&h, "{'descr': '<i2', 'fortran_order': False, 'shape': (13,)}"));
    snprintf(deep, sizeof deep, "{'descr': '<f4', 'fortran_order': False, 'shape': (");
    for (i = 0; i < 33; i++) strcat(deep, "1,");
    strcat(deep, ")}");
    CHECK(!parse(&h, deep));
}

/* A file made here: header text, then `size` bytes of numbers. */
static void make(const char *dict, const void *numbers, size_t size)
{
    FILE *file = fopen(SCRATCH, "wb");
    size_t length = strlen(dict);
    CHECK(file != NULL);
    if (!file) return;
    fwrite("\223NUMPY\001\000", 1, 8, file);
    fputc((int)(length & 255), file);
    fputc((int)(length >> 8), file);
    fwrite(dict, 1, length, file);
    fwrite(numbers, 1, size, file);
    fclose(file);
}

/* The edges of every number type. */
static void check_extremes(void)
{
    static const unsigned char halves[] = {0x00, 0x3c, 0x00, 0xc0, 0xff, 0x7b, 0x01,
                                           0x00, 0xff, 0x83, 0x00, 0x04, 0x00, 0x7c,
                                           0x00, 0xfc, 0x00, 0x7e, 0x00, 0x80};
    static const double expected[] = {1,
                                      -2,
                                      65504,
                                      5.9604644775390625e-8,
                                      -6.0975551605224609e-5,
                                      6.103515625e-5,
                                      INFINITY,
                                      -INFINITY,
                                      NAN,
                                      0};
    static const unsigned char longs[] = {0x80, 0,    0,    0,    0,    0,    0,    0,
                                          0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                          0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe};
    npy_header h;
    float values[64];
    size_t i;
    make("{'descr': '<f2', 'fortran_order': False, 'shape': (10,)}", halves, sizeof halves);
    CHECK(read_all(&h, values, SCRATCH));
    for (i = 0; i < 10; i++) CHECK_CLOSE(values[i], expected[i], 0, "half precision");
    CHECK(signbit(values[9]));
    make("{'descr': '>i8', 'fortran_order': False, 'shape': (3,)}", longs, sizeof longs);
    CHECK(read_all(&h, values, SCRATCH));
    CHECK_CLOSE(values[0], -9223372036854775808.0, 0, "least long");
    CHECK_CLOSE(values[1], 9223372036854775808.0, 0, "greatest long");
    CHECK_CLOSE(values[2], -2, 0, "a small long");
    make("{'descr': '>u8', 'fortran_order': False, 'shape': (3,)}", longs, sizeof longs);
    CHECK(read_all(&h, values, SCRATCH));
    CHECK_CLOSE(values[2], 18446744073709551616.0, 0, "an unsigned long");
}

static void check_images(void)
{
    static const size_t shapes[4][3] = {{3, 4, 0}, {1, 3, 4}, {3, 4, 1}, {2, 3, 4}};
    static const int ranks[4] = {2, 3, 3, 3};
    float numbers[24], *pixels = NULL;
    size_t s, i, height = 0, width = 0;
    for (i = 0; i < 24; i++) numbers[i] = (float)i - 7.5f;
    for (s = 0; s < 3; s++) {
        CHECK(npy_write_float(SCRATCH, numbers, ranks[s], shapes[s], text));
        CHECK(npy_read_image(&pixels, &height, &width, SCRATCH, text));
        CHECK(height == 3 && width == 4 && memcmp(pixels, numbers, 12 * sizeof(float)) == 0);
        free(pixels);
        pixels = NULL;
    }
    CHECK(npy_write_float(SCRATCH, numbers, 3, shapes[3], text));
    CHECK(!npy_read_image(&pixels, &height, &width, SCRATCH, text) && !pixels);
    CHECK(strstr(text, "(2, 3, 4)") != NULL);
    CHECK(npy_write_float(SCRATCH, numbers, 0, NULL, text));
    CHECK(!npy_read_image(&pixels, &height, &width, SCRATCH, text) && !pixels);
    CHECK(!npy_read_image(&pixels, &height, &width, FOLDER "ok_empty.npy", text) && !pixels);
    CHECK(strstr(text, "no pixels") != NULL);
}

/* What is written is read, and begins at a multiple of 64 as NumPy's own files do. */
static void check_writer(void)
{
    static const size_t shape[2] = {2, 5}, one[1] = {10};
    double numbers[10];
    float values[64];
    npy_header h;
    size_t i;
    for (i = 0; i < 10; i++) numbers[i] = 1.0 / (double)(i + 1);
    CHECK(npy_write_double(SCRATCH, numbers, 2, shape, text));
    CHECK(read_all(&h, values, SCRATCH) && h.item_size == 8 && h.offset % 64 == 0 && h.rank == 2);
    for (i = 0; i < 10; i++) CHECK_CLOSE(values[i], (float)numbers[i], 0, "written");
    CHECK(npy_write_double(SCRATCH, numbers, 1, one, text));
    CHECK(read_all(&h, values, SCRATCH) && h.rank == 1 && h.shape[0] == 10);
    CHECK(!npy_write_double("build/no such folder/a.npy", numbers, 1, one, text));
}

int main(void)
{
    check_numbers(FOLDER "ok_v1.npy", 0);
    check_numbers(FOLDER "ok_v2.npy", 0);
    check_numbers(FOLDER "ok_v3.npy", 0);
    check_numbers(FOLDER "ok_bigendian.npy", 0);
    check_numbers(FOLDER "ok_f8.npy", 0);
    check_numbers(FOLDER "ok_f2.npy", 5e-4);
    check_order();
    check_types();
    check_spellings();
    check_malformed();
    check_grammar();
    check_extremes();
    check_images();
    check_writer();
    remove(SCRATCH);
    return test_end();
}
