/* test_files.c - safetensors in and out, names of ConvNeXt V2, Hugging Face folders, and files that
 * lie. cc -O2 -fopenmp -I. tests/test_files.c -o build/test_files -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "examples/huggingface.h"
#include "tests/lngen.h"
#include "tests/test.h"

#define FIXTURES "tests/fixtures/files/"
#define SCRATCH  "build/test_files.tmp.safetensors"

/* --- a host that counts, and fails when told to ----------------------------------------------- */

typedef struct faulty {
    lensnet_host inner;
    long allocations, fail_allocation; /* the allocation that fails; 0: none */
    long live;
    size_t peak_block;
    long writes, fail_write;
    int fail_commit, fail_open, fail_read;
} faulty;

static void *faulty_allocate(size_t bytes, size_t alignment, void *user)
{
    faulty *f = (faulty *)user;
    if (++f->allocations == f->fail_allocation) return NULL;
    if (bytes > f->peak_block) f->peak_block = bytes;
    f->live++;
    return f->inner.allocate(bytes, alignment, NULL);
}

static void faulty_release(void *block, size_t bytes, void *user)
{
    faulty *f = (faulty *)user;
    if (block) f->live--;
    f->inner.release(block, bytes, NULL);
}

static void *faulty_open(const char *path, int writing, void *user)
{
    faulty *f = (faulty *)user;
    return f->fail_open ? NULL : f->inner.file_open(path, writing, NULL);
}

static uint64_t faulty_size(void *file, void *user)
{
    return ((faulty *)user)->inner.file_size(file, NULL);
}

static int faulty_read(void *file, uint64_t offset, void *bytes, size_t count, void *user)
{
    faulty *f = (faulty *)user;
    return f->fail_read && offset >= 8 ? 1 : f->inner.file_read(file, offset, bytes, count, NULL);
}

static int faulty_write(void *file, const void *bytes, size_t count, void *user)
{
    faulty *f = (faulty *)user;
    return ++f->writes == f->fail_write ? 1 : f->inner.file_write(file, bytes, count, NULL);
}

static int faulty_close(void *file, int commit, void *user)
{
    faulty *f = (faulty *)user;
    int failed = f->inner.file_close(file, commit && !f->fail_commit, NULL);
    return failed || (commit && f->fail_commit);
}

static lensnet_host faulty_host(faulty *f)
{
    lensnet_host host = lensnet_host_defaults();
    memset(f, 0, sizeof *f);
    f->inner = host;
    host.allocate = faulty_allocate;
    host.release = faulty_release;
    host.file_open = faulty_open;
    host.file_size = faulty_size;
    host.file_read = faulty_read;
    host.file_write = faulty_write;
    host.file_close = faulty_close;
    host.user = f;
    return host;
}

static unsigned char *load(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    unsigned char *bytes;
    long end;
    *size = 0;
    if (!file) return NULL;
    fseek(file, 0, SEEK_END);
    end = ftell(file);
    rewind(file);
    bytes = (unsigned char *)malloc((size_t)end + 1);
    *size = fread(bytes, 1, (size_t)end, file);
    bytes[*size] = 0;
    fclose(file);
    return bytes;
}

static int exists(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file) fclose(file);
    return file != NULL;
}

static int same_file(const char *a, const char *b)
{
    size_t na, nb;
    unsigned char *x = load(a, &na), *y = load(b, &nb);
    int same = x && y && na == nb && memcmp(x, y, na) == 0;
    free(x);
    free(y);
    return same;
}

/* --- 16 bits ---------------------------------------------------------------------------------- */

static int half_is_nan(uint32_t h) { return (h & 0x7fffu) > 0x7c00u; }

static float next_up(float x) { return lnp_bits_float(lnp_float_bits(x) + 1); }
static float next_down(float x) { return lnp_bits_float(lnp_float_bits(x) - 1); }

static void test_halves(void)
{
    uint32_t h;
    int round_trip = 1, ties = 1, nans = 1;
    for (h = 0; h < 0x10000u; h++) {
        float x = lnp_half_to_float((uint16_t)h);
        if (lnp_float_to_half(x) != h) round_trip = 0;
        if (half_is_nan(h) != (x != x)) nans = 0;
        if (h < 0x7bff) { /* the middle between two neighbours goes to the even one */
            float up = lnp_half_to_float((uint16_t)(h + 1));
            float middle = (float)(((double)x + (double)up) / 2);
            uint32_t even = h & 1u ? h + 1 : h;
            if (lnp_float_to_half(middle) != even ||
                lnp_float_to_half(-middle) != (even | 0x8000u) ||
                lnp_float_to_half(next_up(middle)) != h + 1 ||
                lnp_float_to_half(next_down(middle)) != h) {
                ties = 0;
            }
        }
    }
    CHECK(round_trip);
    CHECK(ties);
    CHECK(nans);
    CHECK_CLOSE(lnp_half_to_float(0x3555), 0.333251953125, 0, "third");
    CHECK_CLOSE(lnp_half_to_float(0x0001), 5.9604644775390625e-8, 0, "smallest");
    CHECK(lnp_float_to_half(65519.996f) == 0x7bff && lnp_float_to_half(65520.0f) == 0x7c00);
    CHECK(lnp_float_to_half(2.9802322e-8f) == 0 && lnp_float_to_half(2.98023259e-8f) == 1);
}

static void test_bfloats(void)
{
    uint32_t b;
    int round_trip = 1, ties = 1;
    for (b = 0; b < 0x10000u; b++) {
        float x = lnp_bfloat_to_float((uint16_t)b);
        if (lnp_float_to_bfloat(x) != b) round_trip = 0;
        if (b < 0x7f80) {
            float middle = lnp_bits_float(b << 16 | 0x8000u);
            uint32_t even = b & 1u ? b + 1 : b;
            if (lnp_float_to_bfloat(middle) != even ||
                lnp_float_to_bfloat(next_up(middle)) != b + 1 ||
                lnp_float_to_bfloat(next_down(middle)) != b) {
                ties = 0;
            }
        }
    }
    CHECK(round_trip);
    CHECK(ties);
    CHECK(lnp_float_to_bfloat(lnp_bits_float(0x7f800001u)) == 0x7fc0);
}

/* --- files as others write them --------------------------------------------------------------- */

static lensnet_archive *open_good(const char *path)
{
    lensnet_archive *archive;
    lensnet_error error;
    if (lensnet_archive_open(&archive, path, NULL, &error)) {
        printf("%s: %s\n", path, error.text);
        CHECK(!"a good file was refused");
        return NULL;
    }
    return archive;
}

static void check_tensor(const lensnet_archive *archive, const char *name, lensnet_dtype dtype,
                         int rank, const float *expected, size_t count)
{
    const lensnet_archive_entry *entry = lensnet_archive_find(archive, name);
    float values[8];
    size_t i;
    CHECK(entry && entry->dtype == dtype && entry->rank == rank && entry->count == count);
    if (!entry || entry->count != count) return;
    CHECK(lensnet_archive_read_float(values, archive, entry, NULL) == LENSNET_OK);
    for (i = 0; i < count; i++) CHECK_CLOSE(values[i], expected[i], 0, name);
}

static void test_basic(void)
{
    static const float a[] = {1.5f, -2.0f}, b[] = {7};
    lensnet_archive *archive = open_good(FIXTURES "ok_basic.safetensors");
    unsigned char raw[8] = {0};
    static const unsigned char seven[8] = {
        7}; /* the file's order of bytes, whatever the machine's */
    if (!archive) return;
    CHECK(lensnet_archive_count(archive) == 3);
    check_tensor(archive, "a", LENSNET_DTYPE_F32, 1, a, 2);
    check_tensor(archive, "b", LENSNET_DTYPE_I64, 0, b, 1);
    check_tensor(archive, "e", LENSNET_DTYPE_F32, 2, NULL, 0);
    CHECK(!lensnet_archive_find(archive, "c") && !lensnet_archive_at(archive, 3));
    CHECK(strcmp(lensnet_archive_at(archive, 1)->name, "b") == 0);
    CHECK(lensnet_archive_metadata(archive, "format") == NULL);
    CHECK(lensnet_archive_read_bytes(raw, archive, lensnet_archive_find(archive, "b"), NULL) ==
          LENSNET_OK);
    CHECK(memcmp(raw, seven, sizeof raw) == 0);
    lensnet_archive_close(archive);
}

static void test_good_files(void)
{
    static const float ab[] = {-2.0f, 1.5f}, x[] = {1.5f, -2.0f};
    static const float h[] = {1.5f, -2.0f, 65504.0f};
    float g[3] = {1.5f, -2.0f, 0};
    lensnet_archive *archive;
    g[2] = lnp_bits_float(0x7f800000u);
    archive = open_good(FIXTURES "ok_empty.safetensors");
    if (archive) CHECK(lensnet_archive_count(archive) == 0 && !lensnet_archive_find(archive, ""));
    lensnet_archive_close(archive);
    archive = open_good(FIXTURES "ok_out_of_order.safetensors");
    if (archive) {
        check_tensor(archive, "b", LENSNET_DTYPE_F32, 1, ab, 1);
        check_tensor(archive, "a", LENSNET_DTYPE_F32, 1, ab + 1, 1);
        CHECK(strcmp(lensnet_archive_at(archive, 0)->name, "a") == 0);
    }
    lensnet_archive_close(archive);
    archive = open_good(FIXTURES "ok_bf16_f16.safetensors");
    if (archive) {
        check_tensor(archive, "h", LENSNET_DTYPE_F16, 1, h, 3);
        check_tensor(archive, "g", LENSNET_DTYPE_BF16, 1, g, 3);
    }
    lensnet_archive_close(archive);
    archive = open_good(FIXTURES "ok_unaligned_header_and_escapes.safetensors");
    if (archive) {
        const char *text = lensnet_archive_metadata(archive, "k");
        check_tensor(archive, "\xc3\xa9\"\\/x", LENSNET_DTYPE_F32, 1, x, 2);
        CHECK(text && strcmp(text, "v \xf0\x9f\x98\x80") == 0);
    }
    lensnet_archive_close(archive);
}

/* Written by the reference implementation: what is read from it, saved again, gives the same bytes.
 *  */
static void test_reference_writer(void)
{
    static const char *const path = FIXTURES "ok_reference_writer.safetensors";
    static const float half[] = {1.5f, -2.0f, 0.0999755859375f}, u64[] = {9223372036854775808.0f};
    static const float f64[] = {0.1f, -1.0f}, i16[] = {-3, 4}, flag[] = {1, 0, 1}, i64[] = {-7};
    static const float u32[] = {4294967296.0f}, u16[] = {65535}, i32[] = {-5}, u8[] = {0, 255, 7};
    lensnet_archive_tensor tensors[16];
    lensnet_archive_pair pair = {"format", "pt"};
    lensnet_archive *archive = open_good(path);
    float expected[2];
    size_t i, size;
    unsigned char *file = load(path, &size);
    if (!archive || !file) return;
    check_tensor(archive, "half", LENSNET_DTYPE_F16, 1, half, 3);
    check_tensor(archive, "u64", LENSNET_DTYPE_U64, 1, u64, 1);
    check_tensor(archive, "u32", LENSNET_DTYPE_U32, 1, u32, 1);
    check_tensor(archive, "i32", LENSNET_DTYPE_I32, 1, i32, 1);
    check_tensor(archive, "u16", LENSNET_DTYPE_U16, 1, u16, 1);
    check_tensor(archive, "i16", LENSNET_DTYPE_I16, 1, i16, 2);
    check_tensor(archive, "i8", LENSNET_DTYPE_I8, 1, i16, 2);
    check_tensor(archive, "z.u8", LENSNET_DTYPE_U8, 1, u8, 3);
    check_tensor(archive, "flag", LENSNET_DTYPE_BOOL, 1, flag, 3);
    check_tensor(archive, "i64", LENSNET_DTYPE_I64, 0, i64, 1);
    expected[0] = f64[0];
    expected[1] = lnp_bits_float(0xff800000u); /* -1e300 */
    check_tensor(archive, "f64", LENSNET_DTYPE_F64, 1, expected, 2);
    CHECK(strcmp(lensnet_archive_metadata(archive, "format"), "pt") == 0);
    for (i = 0; i < lensnet_archive_count(archive); i++) { /* back to front */
        const lensnet_archive_entry *entry =
            lensnet_archive_at(archive, lensnet_archive_count(archive) - 1 - i);
        memset(tensors + i, 0, sizeof *tensors);
        tensors[i].name = entry->name;
        tensors[i].dtype = entry->dtype;
        tensors[i].rank = entry->rank;
        memcpy(tensors[i].shape, entry->shape, sizeof entry->shape);
        tensors[i].bytes = file + entry->offset;
    }
    CHECK(lensnet_archive_save(SCRATCH, tensors, i, &pair, 1, NULL, NULL) == LENSNET_OK);
    CHECK(same_file(SCRATCH, path));
    lensnet_archive_close(archive);
    free(file);
}

static void test_bad_files(void)
{
    static const char *const bad[][2] = {
        {"deep_nesting", "expected an object at byte 5"},
        {"duplicate_key", "tensor 'a' stands twice"},
        {"end_before_begin", "ends before it begins"},
        {"float_offset", "expected a non-negative integer"},
        {"header_len_100MB+1", "100000001"},
        {"header_len_huge", "9223372036854775808"},
        {"header_len_past_eof", "10000"},
        {"hole", "tensor 'b' does not begin where"},
        {"json", "expected a comma or the end"},
        {"leading_space", "does not begin with '{'"},
        {"metadata_not_string", "expected a string"},
        {"negative_shape", "expected a non-negative integer"},
        {"overflow_shape", "impossible shape"},
        {"overlap", "tensor 'b' does not begin where"},
        {"short_data", "tensor 'b' ends behind the end of the file"},
        {"size_mismatch", "other than its type and shape"},
        {"start_not_zero", "tensor 'a' does not begin where"},
        {"too_short", "has 3 bytes"},
        {"trailing_bytes", "describes 188 bytes, but it has 190"},
        {"unknown_dtype", "type 'F33'"}};
    size_t i;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        char path[128];
        lensnet_archive *archive;
        lensnet_error error;
        lensnet_result result;
        faulty f;
        lensnet_host host = faulty_host(&f);
        snprintf(path, sizeof path, FIXTURES "bad_%s.safetensors", bad[i][0]);
        result = lensnet_archive_open(&archive, path, &host, &error);
        CHECK(result == LENSNET_ERROR_FORMAT && !archive && error.code == result);
        if (result && !strstr(error.text, bad[i][1])) printf("%s\n", error.text);
        CHECK(strstr(error.text, bad[i][1]) && strstr(error.text, path));
        CHECK(f.live == 0 && f.peak_block < 65536);
    }
}

static lensnet_result open_header(const char *header, size_t data, char *text, size_t capacity)
{
    unsigned char bytes[2048] = {0};
    lensnet_archive *archive;
    lensnet_error error;
    lensnet_result result;
    size_t length = strlen(header);
    lnp_store64(bytes, length);
    memcpy(bytes + 8, header, length);
    error.text[0] = 0;
    result = lensnet_archive_open_memory(&archive, bytes, 8 + length + data, NULL, &error);
    if (!result && lensnet_archive_count(archive)) {
        snprintf(text, capacity, "%s", lensnet_archive_at(archive, 0)->name);
    } else {
        snprintf(text, capacity, "%s", error.text);
    }
    lensnet_archive_close(archive);
    return result;
}

static void test_headers(void)
{
#define ENTRY "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}"
    static const struct {
        const char *header;
        const char *text; /* the first name, or a part of the error */
        lensnet_result result;
    } cases[] = {
        {"{\"a\":" ENTRY "} \n", "a", LENSNET_OK},
        {"{ \"a\" : { "
         "\"x\":[1,{\"y\":null}],\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
         "a", LENSNET_OK},
        {"{\"\\ud83d\\ude00\":" ENTRY "}", "\xf0\x9f\x98\x80", LENSNET_OK},
        {"{\"\\u20AC\":" ENTRY "}", "\xe2\x82\xac", LENSNET_OK},
        {"{\"\":" ENTRY "}", "", LENSNET_OK},
        {"{\"\\ud83d\":" ENTRY "}", "surrogate", LENSNET_ERROR_FORMAT},
        {"{\"\\ude00\\ud83d\":" ENTRY "}", "surrogate", LENSNET_ERROR_FORMAT},
        {"{\"\\u00g0\":" ENTRY "}", "hexadecimal", LENSNET_ERROR_FORMAT},
        {"{\"\\u0000\":" ENTRY "}", "zero character", LENSNET_ERROR_FORMAT},
        {"{\"\\x\":" ENTRY "}", "escape", LENSNET_ERROR_FORMAT},
        {"{\"\t\":" ENTRY "}", "control character", LENSNET_ERROR_FORMAT},
        {"{\"\xff\":" ENTRY "}", "UTF-8", LENSNET_ERROR_FORMAT},
        {"{\"\xc0\x80\":" ENTRY "}", "UTF-8", LENSNET_ERROR_FORMAT},
        {"{\"\xed\xa0\x80\":" ENTRY "}", "UTF-8", LENSNET_ERROR_FORMAT},
        {"{\"a\":" ENTRY "}x", "behind the end", LENSNET_ERROR_FORMAT},
        {"{\"a\":" ENTRY ",}", "expected a string", LENSNET_ERROR_FORMAT},
        {"{\"a\" " ENTRY "}", "colon", LENSNET_ERROR_FORMAT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[01],\"data_offsets\":[0,1]}}", "leading 0",
         LENSNET_ERROR_FORMAT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1e0],\"data_offsets\":[0,1]}}", "non-negative",
         LENSNET_ERROR_FORMAT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[18446744073709551616],\"data_offsets\":[0,1]}}",
         "64 bits", LENSNET_ERROR_FORMAT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", "more than two",
         LENSNET_ERROR_FORMAT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", "fewer than two",
         LENSNET_ERROR_FORMAT},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", "lacks", LENSNET_ERROR_FORMAT},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
         "twice", LENSNET_ERROR_FORMAT},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,1]}}", "type and shape",
         LENSNET_ERROR_FORMAT},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]}}", "a", LENSNET_OK},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}",
         "more than 8 dimensions", LENSNET_ERROR_UNSUPPORTED},
        {"{\"__metadata__\":{\"a\":\"b\",\"a\":\"c\"},\"a\":" ENTRY "}", "'a' twice",
         LENSNET_ERROR_FORMAT},
        {"{\"__metadata__\":{},\"__metadata__\":{},\"a\":" ENTRY "}", "second",
         LENSNET_ERROR_FORMAT},
        {"{\"__metadata__\":[],\"a\":" ENTRY "}", "expected an object", LENSNET_ERROR_FORMAT},
        {"{\"a\":{\"x\":truth}}", "expected a", LENSNET_ERROR_FORMAT},
        {"{\"a\":{\"x\":-.5}}", "expected a value", LENSNET_ERROR_FORMAT},
        {"{\"a\":{\"x\":\"", "without an end", LENSNET_ERROR_FORMAT},
        {"{\"a\":{\"x\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "too deeply",
         LENSNET_ERROR_FORMAT}};
    size_t i;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[600];
        lensnet_result result = open_header(cases[i].header, 1, text, sizeof text);
        int good = result == cases[i].result && strstr(text, cases[i].text) != NULL;
        if (!good) printf("%s: %d %s\n", cases[i].header, (int)result, text);
        CHECK(good);
    }
}

/* --- lies and faults -------------------------------------------------------------------------- */

/* Opens the bytes and, if that works, reads every tensor. They stand at the end of a block of just
 * their size, so that a sanitizer sees a step too far. */
static lensnet_result read_all(const unsigned char *bytes, size_t size)
{
    unsigned char *copy = (unsigned char *)malloc(size ? size : 1);
    lensnet_archive *archive;
    lensnet_result result;
    size_t i;
    memcpy(copy, bytes, size);
    result = lensnet_archive_open_memory(&archive, copy, size, NULL, NULL);
    for (i = 0; !result && i < lensnet_archive_count(archive); i++) {
        const lensnet_archive_entry *entry = lensnet_archive_at(archive, i);
        float *values = (float *)malloc((size_t)entry->count * sizeof(float) + 1);
        CHECK(lensnet_archive_find(archive, entry->name) == entry);
        result = lensnet_archive_read_float(values, archive, entry, NULL);
        if (result == LENSNET_ERROR_UNSUPPORTED) result = LENSNET_OK;
        free(values);
    }
    lensnet_archive_close(archive);
    free(copy);
    return result;
}

static void test_truncation(void)
{
    size_t size, i, accepted = 0;
    unsigned char *bytes = load(FIXTURES "ok_reference_writer.safetensors", &size);
    for (i = 0; i < size; i++) accepted += read_all(bytes, i) == LENSNET_OK;
    CHECK(accepted == 0);
    CHECK(read_all(bytes, size) == LENSNET_OK);
    free(bytes);
}

static void test_bit_flips(void)
{
    size_t size, bit, refused = 0, header;
    unsigned char *bytes = load(FIXTURES "ok_reference_writer.safetensors", &size);
    header = 8 + (size_t)lnp_load64(bytes);
    for (bit = 0; bit < 8 * header; bit++) {
        bytes[bit / 8] = (unsigned char)(bytes[bit / 8] ^ 1u << bit % 8);
        refused += read_all(bytes, size) != LENSNET_OK;
        bytes[bit / 8] = (unsigned char)(bytes[bit / 8] ^ 1u << bit % 8);
    }
    CHECK(refused > 5 * header); /* most; flips inside names and padding may pass */
    free(bytes);
}

/* --- checksums, shards, folders, wrong files -------------------------------------------------- */

static void put(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(bytes, 1, size, file) == size);
    if (file) fclose(file);
}

/* Two tensors and a line, with checksums. */
static lensnet_result save_summed(const char *path, lensnet_dtype dtype)
{
    static const float values[6] = {0.5f, -1.25f, 3, 4, 5, 6};
    static const lensnet_archive_pair pairs[] = {{"format", "pt"},
                                                 {LENSNET_ARCHIVE_CHECKSUMS, NULL}};
    lensnet_archive_tensor tensors[2];
    memset(tensors, 0, sizeof tensors);
    tensors[0].name = "first";
    tensors[0].dtype = dtype;
    tensors[0].rank = 2;
    tensors[0].shape[0] = 2;
    tensors[0].shape[1] = 3;
    tensors[0].values = values;
    tensors[1].name = "second";
    tensors[1].dtype = LENSNET_DTYPE_U8;
    tensors[1].rank = 1;
    tensors[1].shape[0] = 9;
    tensors[1].bytes = "123456789";
    return lensnet_archive_save(path, tensors, 2, pairs, 2, NULL, NULL);
}

/* The CRC-32 of "123456789" is the one that every description of it gives. */
static void test_checksums(void)
{
    lensnet_archive *archive;
    unsigned char *bytes;
    size_t size, bit, key, refused = 0;
    lensnet_error error;
    CHECK(save_summed(SCRATCH, LENSNET_DTYPE_F16) == LENSNET_OK);
    archive = open_good(SCRATCH);
    CHECK(strstr(lensnet_archive_metadata(archive, LENSNET_ARCHIVE_CHECKSUMS), " cbf43926"));
    lensnet_archive_close(archive);
    CHECK(save_summed(SCRATCH, LENSNET_DTYPE_F32) == LENSNET_OK);
    bytes = load(SCRATCH, &size);
    CHECK(read_all(bytes, size) == LENSNET_OK);
    for (key = 8; memcmp(bytes + key, LENSNET_ARCHIVE_CHECKSUMS, 17); key++) continue;
    for (bit = 0; bit < 8 * size; bit++) {
        lensnet_result result;
        bytes[bit / 8] = (unsigned char)(bytes[bit / 8] ^ 1u << bit % 8);
        result = read_all(bytes, size);
        /* harmless: the name of the line itself, and a checksum in capitals */
        if (!result && bit / 8 >= key && bit / 8 < key + strlen(LENSNET_ARCHIVE_CHECKSUMS))
            result = LENSNET_ERROR_FORMAT;
        if (!result) CHECK(bit % 8 == 5 && strchr("ABCDEF", bytes[bit / 8]));
        refused += result != LENSNET_OK;
        bytes[bit / 8] = (unsigned char)(bytes[bit / 8] ^ 1u << bit % 8);
    }
    CHECK(refused + 24 > 8 * size);
    bytes[size - 1] ^= 1;
    put(SCRATCH, bytes, size);
    free(bytes);
    archive = open_good(SCRATCH);
    bytes = (unsigned char *)malloc(9);
    CHECK(lensnet_archive_read_bytes(bytes, archive, lensnet_archive_find(archive, "second"),
                                     &error) == LENSNET_ERROR_FORMAT);
    CHECK(strstr(error.text, "damaged") && strstr(error.text, "'second'"));
    lensnet_archive_close(archive);
    free(bytes);
}

static void save_one(const char *path, const char *name, float value)
{
    lensnet_archive_tensor tensor;
    lensnet_archive_pair pair = {"format", "pt"};
    memset(&tensor, 0, sizeof tensor);
    tensor.name = name;
    tensor.dtype = LENSNET_DTYPE_F32;
    tensor.values = &value;
    CHECK(lensnet_archive_save(path, &tensor, 1, &pair, 1, NULL, NULL) == LENSNET_OK);
}

#define SHARDS "build/test_files.shards/"

static void test_shards(void)
{
    static const char *const bad[][2] = {
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", "no file"},
        {"{\"weight_map\":{\"a\":\"none.safetensors\"}}", "none."},
        {"{\"weight_map\":{\"a\":\"one.safetensors\"", "JSON"},
        {"{\"weight_map\":{\"a\":5}}", "JSON"},
        {"{\"depths\":[2,2,6,2]}", "JSON text"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":"
         "\"same.safetensors\"}}",
         "stands twice"}};
    static const char index[] = "{\"metadata\":{\"total_size\":8},\"weight_map\":{\"b\":"
                                "\"two.safetensors\",\"a\":\"one.safetensors\"}}";
    static const float one = 1, two = 2;
    const char *path = SHARDS "model.safetensors.index.json";
    lensnet_archive *archive;
    lensnet_error error;
    size_t i;
    long n;
    CHECK(system("rm -rf " SHARDS " && mkdir -p " SHARDS) == 0);
    save_one(SHARDS "one.safetensors", "a", 1);
    save_one(SHARDS "two.safetensors", "b", 2);
    save_one(SHARDS "same.safetensors", "a", 2);
    put(path, index, sizeof index - 1);
    for (i = 0; i < 2; i++) { /* by the index, and by the folder */
        archive = open_good(i ? SHARDS : path);
        if (!archive) continue;
        CHECK(lensnet_archive_count(archive) == 2);
        check_tensor(archive, "a", LENSNET_DTYPE_F32, 0, &one, 1);
        check_tensor(archive, "b", LENSNET_DTYPE_F32, 0, &two, 1);
        CHECK(!strcmp(lensnet_archive_metadata(archive, "format"), "pt"));
        lensnet_archive_close(archive);
    }
    for (n = 1; n < 1000; n++) {
        faulty f;
        lensnet_host host = faulty_host(&f);
        lensnet_result result;
        f.fail_allocation = n;
        result = lensnet_archive_open(&archive, SHARDS, &host, &error);
        lensnet_archive_close(archive);
        CHECK(f.live == 0 && (!result || result == LENSNET_ERROR_MEMORY));
        if (!result) break;
    }
    CHECK(n > 8 && n < 1000);
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        put(path, bad[i][0], strlen(bad[i][0]));
        CHECK(lensnet_archive_open(&archive, path, NULL, &error) != LENSNET_OK);
        if (!strstr(error.text, bad[i][1])) printf("%s\n", error.text);
        CHECK(strstr(error.text, bad[i][1]) != NULL);
    }
    remove(path);
    CHECK(lensnet_archive_open(&archive, SHARDS, NULL, &error) == LENSNET_ERROR_FILE);
    CHECK(strstr(error.text, "folder") && strstr(error.text, "model.safetensors"));
    save_one(SHARDS "model.safetensors", "a", 1);
    archive = open_good(SHARDS);
    check_tensor(archive, "a", LENSNET_DTYPE_F32, 0, &one, 1);
    lensnet_archive_close(archive);
    CHECK(system("rm -rf " SHARDS) == 0);
}

/* Each is named, with what to do. */
static void test_wrong_files(void)
{
#define WRONG(bytes, word)                                                                         \
    {                                                                                              \
        bytes "                                        ", word                                     \
    }
    static const char *const wrong[][2] = {
        WRONG("version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        WRONG("<!DOCTYPE html><html><body>Quota exceeded</body></html>\n", "web page"),
        WRONG("PK\3\4", "tools/convert.c"),
        WRONG("\x80\x02\x8a", "tools/convert.c"),
        WRONG("\x89HDF\r\n\x1a\n", "HDF5"),
        WRONG("\x80\4\x95\x10\0\0\0\0\0\0\0}", "pickle"),
        WRONG("\x80\3}q\0", "pickle"),
        WRONG("BZh91AY&SY", "bunzip2"),
        WRONG("\xfd\x37zXZ\0\0\4", "unxz"),
        WRONG("%PDF-1.4\n1 0 obj", "PDF"),
        WRONG("\x08\x07\x12\x07pytorch", "ONNX"),
        WRONG("{\"model_type\": \"convnextv2\"}", "JSON"),
        WRONG("\x93NUMPY", "exchanged"),
        WRONG("SIMPLE  =", "exchanged"),
        WRONG("\x1f\x8b\x08", "gunzip"),
        WRONG("SQLite format 3", "SQLite"),
        WRONG("7z\xbc\xaf\x27\x1c", "7z"),
        WRONG("Rar!\x1a\x07", "unrar"),
        WRONG("\x28\xb5\x2f\xfd", "unzstd"),
        WRONG("\x7f"
              "ELF\2\1\1",
              "program"),
        WRONG("model: convnextv2\n", "text"),
        WRONG("\x89PNG\r\n", "PNG")};
    lensnet_archive *archive;
    lensnet_error error;
    char tar[512] = "model.safetensors";
    size_t i;
    memcpy(tar + 257, "ustar", 5);
    put(SCRATCH, tar, sizeof tar);
    CHECK(lensnet_archive_open(&archive, SCRATCH, NULL, &error) == LENSNET_ERROR_FORMAT);
    CHECK(strstr(error.text, "tar -xf"));
    for (i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        put(SCRATCH, wrong[i][0], strlen(wrong[i][0]));
        CHECK(lensnet_archive_open(&archive, SCRATCH, NULL, &error) == LENSNET_ERROR_FORMAT);
        if (!strstr(error.text, wrong[i][1])) printf("%s\n", error.text);
        CHECK(strstr(error.text, wrong[i][1]) && strstr(error.text, SCRATCH));
    }
    put(SCRATCH, "", 0);
    CHECK(lensnet_archive_open(&archive, SCRATCH, NULL, &error) == LENSNET_ERROR_FORMAT);
    CHECK(strstr(error.text, "empty") != NULL);
}

/* A file of 5 GiB that is nowhere: tensor "far" lies behind 4 GiB. */
#define FAR_HEADER                                                                                 \
    "{\"near\":{\"dtype\":\"U8\",\"shape\":[5368709120],\"data_offsets\":[0,5368709120]},"         \
    "\"far\":{\"dtype\":\"F16\",\"shape\":[20000],\"data_offsets\":[5368709120,5368749120]}}"

static void *far_open(const char *path, int writing, void *user)
{
    (void)path;
    return writing ? NULL : user;
}

static uint64_t far_size(void *file, void *user)
{
    (void)file;
    (void)user;
    return 8 + strlen(FAR_HEADER) + 5368749120u;
}

static int far_read(void *file, uint64_t offset, void *bytes, size_t count, void *user)
{
    uint64_t data = 8 + strlen(FAR_HEADER);
    unsigned char *out = (unsigned char *)bytes;
    size_t i;
    (void)file;
    (void)user;
    if (offset < data) {
        unsigned char head[8 + sizeof FAR_HEADER];
        lnp_store64(head, strlen(FAR_HEADER));
        memcpy(head + 8, FAR_HEADER, sizeof FAR_HEADER);
        memcpy(out, head + offset, count);
        return 0;
    }
    for (i = 0; i < count; i++) { /* half number i is 1 + (i % 1024) / 1024 */
        uint64_t at = offset - data + i - 5368709120u;
        out[i] = (unsigned char)((0x3c00u + at / 2 % 1024) >> (at % 2 ? 8 : 0) & 0xffu);
    }
    return 0;
}

static int far_close(void *file, int commit, void *user)
{
    (void)file;
    (void)commit;
    (void)user;
    return 0;
}

static void test_beyond_4_gib(void)
{
    static float values[20000];
    lensnet_host host = lensnet_host_defaults();
    lensnet_archive *archive;
    const lensnet_archive_entry *entry;
    int good = 1, i;
    host.file_open = far_open;
    host.file_size = far_size;
    host.file_read = far_read;
    host.file_close = far_close;
    host.user = values;
    CHECK(lensnet_archive_open(&archive, "far", &host, NULL) == LENSNET_OK);
    entry = lensnet_archive_find(archive, "far");
    CHECK(entry && entry->offset == 8 + strlen(FAR_HEADER) + 5368709120u);
    CHECK(lensnet_archive_read_float(values, archive, entry, NULL) == LENSNET_OK);
    for (i = 0; i < 20000; i++) good = good && values[i] == 1.0f + (float)(i % 1024) / 1024.0f;
    CHECK(good);
    lensnet_archive_close(archive);
}

static const float small_values[6] = {0.5f, -1.25f, 3, 4, 5, 6};

static lensnet_result save_small(const char *path, const lensnet_host *host, lensnet_error *error)
{
    lensnet_archive_tensor tensors[2];
    lensnet_archive_pair pairs[2] = {{"format", "pt"}, {"note", "line\n\"quoted\" \xc3\xa9"}};
    memset(tensors, 0, sizeof tensors);
    tensors[0].name = "first";
    tensors[0].dtype = LENSNET_DTYPE_BF16;
    tensors[0].rank = 2;
    tensors[0].shape[0] = 2;
    tensors[0].shape[1] = 3;
    tensors[0].values = small_values;
    tensors[1] = tensors[0];
    tensors[1].name = "second";
    tensors[1].dtype = LENSNET_DTYPE_F32;
    return lensnet_archive_save(path, tensors, 2, pairs, 2, host, error);
}

static void test_round_trip(void)
{
    lensnet_archive *archive;
    CHECK(save_small(SCRATCH, NULL, NULL) == LENSNET_OK);
    archive = open_good(SCRATCH);
    if (!archive) return;
    check_tensor(archive, "first", LENSNET_DTYPE_BF16, 2, small_values, 6);
    check_tensor(archive, "second", LENSNET_DTYPE_F32, 2, small_values, 6);
    CHECK(strcmp(lensnet_archive_metadata(archive, "note"), "line\n\"quoted\" \xc3\xa9") == 0);
    CHECK(strcmp(lensnet_archive_at(archive, 0)->name, "second") == 0);
    CHECK(lensnet_archive_at(archive, 0)->offset % 8 == 0);
    lensnet_archive_close(archive);
}

static void test_refused_saves(void)
{
    static const float large[1] = {70000};
    lensnet_archive_tensor t[2];
    lensnet_archive_pair pairs[2] = {{"a", "b"}, {"a", "c"}};
    lensnet_error error;
    memset(t, 0, sizeof t);
    t[0].name = t[1].name = "x";
    t[0].rank = t[1].rank = 1;
    t[0].shape[0] = t[1].shape[0] = 1;
    t[0].dtype = t[1].dtype = LENSNET_DTYPE_F16;
    t[0].values = t[1].values = large;
    remove(SCRATCH);
    CHECK(lensnet_archive_save(SCRATCH, t, 1, NULL, 0, NULL, &error) == LENSNET_ERROR_NUMBER);
    CHECK(strstr(error.text, "70000") && strstr(error.text, "F16"));
    t[0].dtype = t[1].dtype = LENSNET_DTYPE_F32;
    CHECK(lensnet_archive_save(SCRATCH, t, 2, NULL, 0, NULL, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(lensnet_archive_save(SCRATCH, t, 1, pairs, 2, NULL, &error) == LENSNET_ERROR_ARGUMENT);
    t[0].dtype = LENSNET_DTYPE_I32;
    CHECK(lensnet_archive_save(SCRATCH, t, 1, NULL, 0, NULL, &error) == LENSNET_ERROR_ARGUMENT);
    t[0].dtype = LENSNET_DTYPE_F32;
    t[0].name = "__metadata__";
    CHECK(lensnet_archive_save(SCRATCH, t, 1, NULL, 0, NULL, &error) == LENSNET_ERROR_ARGUMENT);
    t[0].name = "\xff";
    CHECK(lensnet_archive_save(SCRATCH, t, 1, NULL, 0, NULL, &error) == LENSNET_ERROR_ARGUMENT);
    t[0].name = "x";
    t[0].values = NULL;
    CHECK(lensnet_archive_save(SCRATCH, t, 1, NULL, 0, NULL, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(!exists(SCRATCH) && !exists(SCRATCH ".tmp-0"));
    CHECK(lensnet_archive_save(SCRATCH, NULL, 0, NULL, 0, NULL, &error) == LENSNET_OK);
    CHECK(lensnet_archive_save("build/no such folder/x", NULL, 0, NULL, 0, NULL, &error) ==
          LENSNET_ERROR_FILE);
    CHECK(strstr(error.text, "no such folder"));
    CHECK(lensnet_archive_save("tests/fixtures", NULL, 0, NULL, 0, NULL, &error) ==
          LENSNET_ERROR_FILE);
    CHECK(!exists("tests/fixtures.tmp-0"));
}

static void test_unreadable(void)
{
    lensnet_archive *archive;
    lensnet_error error;
    faulty f;
    lensnet_host host = faulty_host(&f);
    CHECK(lensnet_archive_open(&archive, "build/none", NULL, &error) == LENSNET_ERROR_FILE);
    CHECK(!archive && strstr(error.text, "build/none"));
    CHECK(lensnet_archive_open(&archive, "tests/fixtures", NULL, &error) == LENSNET_ERROR_FILE);
    CHECK(lensnet_archive_open(&archive, NULL, NULL, &error) == LENSNET_ERROR_ARGUMENT);
    f.fail_read = 1;
    CHECK(lensnet_archive_open(&archive, FIXTURES "ok_basic.safetensors", &host, &error) ==
          LENSNET_ERROR_FILE);
    CHECK(f.live == 0);
}

/* Every allocation, write, opening and closing may fail: the old file stays, and nothing else does.
 *  */
static void test_faults(void)
{
    static const char *const old = "build/test_files.old.safetensors";
    lensnet_error error;
    long n, writes;
    faulty f;
    lensnet_host host = faulty_host(&f);
    CHECK(lensnet_archive_save(old, NULL, 0, NULL, 0, NULL, NULL) == LENSNET_OK);
    CHECK(lensnet_archive_save(SCRATCH, NULL, 0, NULL, 0, NULL, NULL) == LENSNET_OK);
    for (n = 1; n < 1000; n++) {
        lensnet_result result;
        host = faulty_host(&f);
        f.fail_allocation = n;
        result = save_small(SCRATCH, &host, &error);
        CHECK(f.live == 0);
        if (!result) break;
        CHECK(result == LENSNET_ERROR_MEMORY && same_file(SCRATCH, old));
    }
    CHECK(n > 2 && n < 1000);
    writes = f.writes;
    CHECK(lensnet_archive_save(SCRATCH, NULL, 0, NULL, 0, NULL, NULL) == LENSNET_OK);
    for (n = 1; n <= writes + 2; n++) {
        host = faulty_host(&f);
        f.fail_write = n;
        f.fail_commit = n == writes + 1;
        f.fail_open = n == writes + 2;
        CHECK(save_small(SCRATCH, &host, &error) == LENSNET_ERROR_FILE);
        CHECK(strstr(error.text, SCRATCH) != NULL);
        CHECK(f.live == 0 && same_file(SCRATCH, old) && !exists(SCRATCH ".tmp-0"));
    }
    for (n = 1; n < 1000; n++) {
        lensnet_archive *archive;
        lensnet_result result;
        host = faulty_host(&f);
        f.fail_allocation = n;
        result = lensnet_archive_open(&archive, FIXTURES "ok_reference_writer.safetensors", &host,
                                      &error);
        lensnet_archive_close(archive);
        CHECK(f.live == 0);
        if (!result) break;
        CHECK(result == LENSNET_ERROR_MEMORY && !archive);
    }
    CHECK(n == 7); /* archive, part, header, pairs, entries, names; then none fails */
    remove(old);
}

/* --- names ------------------------------------------------------------------------------------ */

#define NAMES 60
enum { AUTHORS, TRANSFORMERS, TIMM, MMPRETRAIN };

/* The small network of the golden data: its names in four libraries, its weights from
 * tests/lngen.h. */
typedef struct small_net {
    char names[NAMES][4][96];
    int rank[NAMES];
    uint64_t shape[NAMES][4];
    float *values[NAMES];
    size_t count;
} small_net;

static int parse_shape(uint64_t *shape, const char *text)
{
    int rank = 0;
    while (*text && rank < 4) {
        char *end;
        shape[rank++] = strtoul(text, &end, 10);
        text = *end ? end + 1 : end;
    }
    return rank;
}

/* mmpretrain's names, from those of the authors. */
static void mmpretrain_name(char out[96], const char *name)
{
    static const char *const words[][2] = {{"dwconv.", "depthwise_conv."},
                                           {"pwconv", "pointwise_conv"}};
    const char *at = NULL;
    size_t i;
    for (i = 0; i < 2 && !at; i++) at = strstr(name, words[i][0]);
    if (!strncmp(name, "head.", 5))
        snprintf(out, 96, "head.fc.%.60s", name + 5);
    else if (!strncmp(name, "norm.", 5))
        snprintf(out, 96, "backbone.norm3.%.60s", name + 5);
    else if (at)
        snprintf(out, 96, "backbone.%.*s%s%.30s", (int)(at - name), name, words[i - 1][1],
                 at + strlen(words[i - 1][0]));
    else
        snprintf(out, 96, "backbone.%.80s", name);
}

static void small_load(small_net *net)
{
    FILE *file = fopen(FIXTURES "names_small.txt", "r");
    char line[400], shape[64], name[96];
    memset(net, 0, sizeof *net);
    while (file && fgets(line, sizeof line, file)) {
        size_t i = net->count, size = 1;
        int axis;
        if (line[0] == '#' || i == NAMES) continue;
        if (sscanf(line, "%95s %95s %95s %63s", net->names[i][0], net->names[i][1],
                   net->names[i][2], shape) != 4) {
            continue;
        }
        mmpretrain_name(name, net->names[i][AUTHORS]);
        strcpy(net->names[i][MMPRETRAIN], name);
        net->rank[i] = parse_shape(net->shape[i], shape);
        for (axis = 0; axis < net->rank[i]; axis++) size *= (size_t)net->shape[i][axis];
        net->values[i] = (float *)malloc(size * sizeof(float));
        lngen_weight(net->values[i], net->names[i][AUTHORS], size, (size_t)net->shape[i][0],
                     net->rank[i] == 1);
        net->count++;
    }
    if (file) fclose(file);
    CHECK(net->count == NAMES);
}

static void small_release(small_net *net)
{
    size_t i;
    for (i = 0; i < net->count; i++) free(net->values[i]);
}

static int contains(const char *text, const char *part) { return strstr(text, part) != NULL; }

/* Writes the network in one library's names; timm drops the GRN's unit axes and may have 1x1
 * convolutions for linears. */
static void small_save(const small_net *net, int library, const char *prefix, const char *strip,
                       int convolutions, const char *skip)
{
    static char names[NAMES + 1][160];
    lensnet_archive_tensor tensors[NAMES];
    size_t i, count = 0;
    for (i = 0; i < net->count; i++) {
        lensnet_archive_tensor *t = tensors + count;
        const char *name = net->names[i][library];
        size_t length = strlen(strip);
        if (skip && contains(name, skip)) continue;
        if (strncmp(name, strip, length) == 0) name += length;
        snprintf(names[count], sizeof names[count], "%s%s", prefix, name);
        memset(t, 0, sizeof *t);
        t->name = names[count];
        t->dtype = LENSNET_DTYPE_F32;
        t->rank = net->rank[i];
        memcpy(t->shape, net->shape[i], sizeof net->shape[i]);
        t->values = net->values[i];
        if (library == TIMM && contains(name, "grn")) {
            t->rank = 1;
            t->shape[0] = t->shape[3];
        }
        if (convolutions && contains(name, ".fc") && contains(name, "mlp") && t->rank == 2) {
            t->rank = 4;
            t->shape[2] = t->shape[3] = 1;
        }
        count++;
    }
    CHECK(lensnet_archive_save(SCRATCH, tensors, count, NULL, 0, NULL, NULL) == LENSNET_OK);
}

/* Every parameter, found by its meaning, has the values and the canonical name and shape of `net`.
 *  */
static void check_network(const small_net *net, const char *path, int has_norm, int has_head,
                          double tolerance, const char *what)
{
    lensnet_archive *archive = open_good(path);
    lnp_checkpoint checkpoint;
    lensnet_error error;
    lnp_slot slot = {LNP_STEM_CONV_WEIGHT, 0, 0};
    size_t seen = 0;
    int good = 1;
    if (!archive) return;
    if (lnp_checkpoint_open(&checkpoint, archive, NULL, &error)) {
        printf("%s: %s\n", what, error.text);
        CHECK(!"a checkpoint was refused");
        lensnet_archive_close(archive);
        return;
    }
    CHECK(checkpoint.has_norm == has_norm && checkpoint.has_head == has_head);
    CHECK(checkpoint.net.classes == (has_head ? 3u : 0u) && checkpoint.net.channels == 3);
    CHECK(checkpoint.net.widths[0] == 8 && checkpoint.net.widths[3] == 64);
    CHECK(checkpoint.net.depths[0] == 1 && checkpoint.net.depths[3] == 1);
    do {
        const lensnet_archive_entry *entry =
            lnp_checkpoint_find(&checkpoint, slot.role, slot.stage, slot.block);
        char name[LNP_NAME_CAPACITY];
        size_t shape[4], i, k, size = 1;
        int axis, rank;
        float *values;
        lnp_role_name(name, sizeof name, slot.role, slot.stage, slot.block);
        for (i = 0; i < net->count && strcmp(net->names[i][TRANSFORMERS], name) != 0; i++) {
        }
        if (i == net->count) {
            printf("%s: no such name: %s\n", what, name);
            good = 0;
            continue;
        }
        seen++;
        if (!entry) {
            good = good && slot.role >= LNP_NORM_WEIGHT && (!has_norm || !has_head);
            continue;
        }
        rank = lnp_role_shape(shape, slot.role, slot.stage, &checkpoint.net);
        good = good && rank == net->rank[i];
        for (axis = 0; axis < rank; axis++) {
            good = good && shape[axis] == net->shape[i][axis];
            size *= shape[axis];
        }
        good = good && size == entry->count;
        values = (float *)malloc((size_t)entry->count * sizeof(float));
        good = good && lensnet_archive_read_float(values, archive, entry, NULL) == LENSNET_OK;
        for (k = 0; good && k < size; k++) {
            good = fabs((double)values[k] - (double)net->values[i][k]) <=
                   tolerance * fabs((double)net->values[i][k]) + tolerance * 6.2e-5;
        }
        free(values);
    } while (lnp_slot_next(&slot, &checkpoint.net));
    test_check(good && seen == NAMES, what, __FILE__, __LINE__);
    lensnet_archive_close(archive);
}

static void test_dialects(const small_net *net)
{
    check_network(net, FIXTURES "small_hf_f16.safetensors", 1, 1, 4.8828125e-4, "golden, F16");
    small_save(net, AUTHORS, "", "", 0, NULL);
    check_network(net, SCRATCH, 1, 1, 0, "authors");
    small_save(net, AUTHORS, "module.", "", 0, NULL);
    check_network(net, SCRATCH, 1, 1, 0, "authors, module.");
    small_save(net, AUTHORS, "encoder.", "", 0, "head.");
    check_network(net, SCRATCH, 1, 0, 0, "authors, encoder., no head");
    small_save(net, TRANSFORMERS, "", "", 0, NULL);
    check_network(net, SCRATCH, 1, 1, 0, "transformers");
    small_save(net, TRANSFORMERS, "", "convnextv2.", 0, "classifier");
    check_network(net, SCRATCH, 1, 0, 0, "transformers, bare");
    small_save(net, TRANSFORMERS, "_orig_mod.", "", 0, NULL);
    check_network(net, SCRATCH, 1, 1, 0, "transformers, _orig_mod.");
    small_save(net, TIMM, "", "", 0, NULL);
    check_network(net, SCRATCH, 1, 1, 0, "timm, linear");
    small_save(net, TIMM, "model.", "", 1, NULL);
    check_network(net, SCRATCH, 1, 1, 0, "timm, 1x1 convolutions, model.");
    small_save(net, TIMM, "", "", 1, "head.");
    check_network(net, SCRATCH, 0, 0, 0, "timm, neither norm nor head");
    small_save(net, TIMM, "module._orig_mod.", "", 0, NULL);
    check_network(net, SCRATCH, 1, 1, 0, "timm, module._orig_mod.");
    small_save(net, AUTHORS, "model.backbone.", "", 0, NULL);
    check_network(net, SCRATCH, 1, 1, 0, "authors, model.backbone.");
    small_save(net, TRANSFORMERS, "net.", "", 0, NULL);
    check_network(net, SCRATCH, 1, 1, 0, "transformers, net.");
    small_save(net, MMPRETRAIN, "", "", 0, NULL);
    check_network(net, SCRATCH, 1, 1, 0, "mmpretrain");
    small_save(net, MMPRETRAIN, "module.", "", 0, NULL);
    check_network(net, SCRATCH, 1, 1, 0, "mmpretrain, module.");
    small_save(net, MMPRETRAIN, "", "backbone.", 0, "head.");
    check_network(net, SCRATCH, 1, 0, 0, "mmpretrain's backbone");
}

static lensnet_result open_scratch(lensnet_error *error)
{
    lensnet_archive *archive = open_good(SCRATCH);
    lnp_checkpoint checkpoint;
    lensnet_result result = lnp_checkpoint_open(&checkpoint, archive, NULL, error);
    lensnet_archive_close(archive);
    return result;
}

static void test_wrong_networks(small_net *net)
{
    lensnet_error error;
    small_save(net, TRANSFORMERS, "", "", 0, "stages.2.layers.0.pwconv1.bias");
    CHECK(open_scratch(&error) == LENSNET_ERROR_FORMAT);
    CHECK(contains(error.text, "lacks") &&
          contains(error.text, "'convnextv2.encoder.stages.2.layers.0.pwconv1.bias'"));
    small_save(net, TIMM, "", "", 0, "stages.3.blocks");
    CHECK(open_scratch(&error) == LENSNET_ERROR_FORMAT && contains(error.text, "stage 3"));
    small_save(net, AUTHORS, "", "", 0, "head.bias");
    CHECK(open_scratch(&error) == LENSNET_ERROR_FORMAT && contains(error.text, "classifier.bias"));
    small_save(net, MMPRETRAIN, "", "", 0, "downsample_layers.0.0.weight");
    CHECK(open_scratch(&error) == LENSNET_ERROR_FORMAT && contains(error.text, "lacks its stem"));
    small_save(net, AUTHORS, "wrapped_", "", 0, NULL);
    CHECK(open_scratch(&error) == LENSNET_ERROR_FORMAT && contains(error.text, "no ConvNeXt V2"));
    CHECK(contains(error.text, "'wrapped_")); /* names of the file */

    strcpy(net->names[59][TRANSFORMERS], "classifier.extra"); /* was classifier.bias */
    small_save(net, TRANSFORMERS, "", "", 0, NULL);
    CHECK(open_scratch(&error) == LENSNET_ERROR_FORMAT);
    strcpy(net->names[59][TRANSFORMERS], "classifier.bias");

    net->shape[0][2] = 2; /* the stem's kernel: 8,3,2,8 has as many weights as 8,3,4,4 */
    net->shape[0][3] = 8;
    small_save(net, TRANSFORMERS, "", "", 0, NULL);
    CHECK(open_scratch(&error) == LENSNET_ERROR_SHAPE);
    CHECK(contains(error.text, "(8, 3, 2, 8); expected (8, 3, 4, 4)"));
    net->shape[0][2] = net->shape[0][3] = 4;
}

/* A tensor too many: refused under any name but those of the training state. */
static void test_unexpected(const small_net *net)
{
    static const char *const refused[] = {"mask_token",
                                          "stages.0.1.dwconv.bias",
                                          "stages.0.00.norm.bias",
                                          "stages.0.0.grn.weight",
                                          "downsample_layers.0.0.bias.x",
                                          "norm.running_mean",
                                          "downsample_layers.4.0.bias"};
    static const float zero[1] = {0};
    lensnet_archive_tensor tensors[NAMES + 1];
    lensnet_error error;
    size_t i;
    memset(tensors, 0, sizeof tensors);
    for (i = 0; i < NAMES; i++) {
        tensors[i].name = net->names[i][AUTHORS];
        tensors[i].dtype = LENSNET_DTYPE_F32;
        tensors[i].rank = net->rank[i];
        memcpy(tensors[i].shape, net->shape[i], sizeof net->shape[i]);
        tensors[i].values = net->values[i];
    }
    tensors[NAMES].dtype = LENSNET_DTYPE_F32;
    tensors[NAMES].values = zero;
    for (i = 0; i < sizeof refused / sizeof *refused; i++) {
        tensors[NAMES].name = refused[i];
        CHECK(lensnet_archive_save(SCRATCH, tensors, NAMES + 1, NULL, 0, NULL, NULL) == LENSNET_OK);
        CHECK(open_scratch(&error) != LENSNET_OK);
    }
    tensors[NAMES].name = "lensnet.moment";
    CHECK(lensnet_archive_save(SCRATCH, tensors, NAMES + 1, NULL, 0, NULL, NULL) == LENSNET_OK);
    CHECK(open_scratch(&error) == LENSNET_OK);
}

static void test_slots(void)
{
    static const lnp_net tiny = {{3, 3, 9, 3}, {96, 192, 384, 768}, 3, 1000};
    lnp_slot slot = {LNP_STEM_CONV_WEIGHT, 0, 0};
    size_t count = 0, weights = 0;
    char name[LNP_NAME_CAPACITY];
    do {
        size_t shape[4], size = 1;
        int rank = lnp_role_shape(shape, slot.role, slot.stage, &tiny);
        while (rank > 0) size *= shape[--rank];
        weights += size;
        count++;
    } while (lnp_slot_next(&slot, &tiny));
    CHECK(count == 200 && weights == 28635496);
    lnp_role_name(name, sizeof name, LNP_BLOCK_GRN_WEIGHT, 2, 8);
    CHECK(strcmp(name, "convnextv2.encoder.stages.2.layers.8.grn.weight") == 0);
    lnp_role_name(name, sizeof name, LNP_HEAD_BIAS, 0, 0);
    CHECK(strcmp(name, "classifier.bias") == 0);
}

/* --- folders ---------------------------------------------------------------------------------- */

#define DESCRIBED "build/test_files.d" /* beside no weights: what stands there would be read */

static const char *const folder_files[] = {
    DESCRIBED "/config.json", DESCRIBED "/preprocessor_config.json",
    DESCRIBED "/image_processing_lensnet.py", DESCRIBED "/README.md"};

static void test_folder(void)
{
    static const char *const labels[3] = {"no", "sph\"ere\\\n", "v\xc3\xb6rt"};
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_error error;
    unsigned char *text;
    size_t size, i;
    long n;
    faulty f;
    lensnet_host host;
    desc.labels = labels;
    desc.drop_path_rate = 0.1f;
    CHECK(system("mkdir -p " DESCRIBED) == 0);
    CHECK(huggingface_describe(&desc, LENSNET_DTYPE_F32, DESCRIBED, &error) == LENSNET_OK);
    text = load(DESCRIBED "/config.json", &size);
    CHECK(contains((char *)text, "\"architectures\": [\"ConvNextV2ForImageClassification\"]"));
    CHECK(contains((char *)text, "\"depths\": [3, 3, 9, 3]"));
    CHECK(contains((char *)text, "\"hidden_sizes\": [96, 192, 384, 768]"));
    CHECK(contains((char *)text, "\"1\": \"sph\\\"ere\\\\\\n\""));
    CHECK(contains((char *)text, "\"drop_path_rate\": 0.1,"));
    CHECK(contains((char *)text, "\"layer_norm_eps\": 1e-06,"));
    CHECK(contains((char *)text, "\"torch_dtype\": \"float32\""));
    free(text);
    text = load(DESCRIBED "/preprocessor_config.json", &size);
    CHECK(contains((char *)text, "\"image_processing_lensnet.LensnetImageProcessor\""));
    CHECK(contains((char *)text, "\"normalisation\": \"znorm\""));
    CHECK(contains((char *)text, "\"size\": {\"height\": 224, \"width\": 224}"));
    free(text);
    text = load(DESCRIBED "/README.md", &size);
    CHECK(contains((char *)text, "trust_remote_code=True") &&
          contains((char *)text, "0. \"no\"\n1. "));
    free(text);
    for (n = 1; n < 1000; n++) {
        lensnet_result result;
        host = faulty_host(&f);
        f.fail_allocation = n;
        desc.host = &host;
        result = huggingface_describe(&desc, LENSNET_DTYPE_F32, DESCRIBED, &error);
        CHECK(f.live == 0 && (!result || result == LENSNET_ERROR_MEMORY));
        if (!result) break;
    }
    CHECK(n > 4 && n < 1000);
    for (i = 0; i < sizeof folder_files / sizeof *folder_files; i++) remove(folder_files[i]);
    remove(DESCRIBED);
}

#define HF "build/test_files.hf/"

/* Loads the network in the folder HF with these files beside it (NULL: none), and says what was read. */
static lensnet_result load_hf(lensnet_model_desc *desc, char *notes, const char *config,
                              const char *processor, const lensnet_load_options *options,
                              lensnet_error *error)
{
    static char labels[400], *ends[8];
    lensnet_model *model;
    lensnet_result result;
    size_t i;
    remove(HF "config.json");
    remove(HF "preprocessor_config.json");
    if (config) put(HF "config.json", config, strlen(config));
    if (processor) put(HF "preprocessor_config.json", processor, strlen(processor));
    result = lensnet_model_load(&model, HF, options, NULL, error);
    if (result) return result;
    *desc = *lensnet_model_description(model);
    strcpy(notes, lensnet_model_notes(model));
    for (i = 0; i < desc->classes && i < 8; i++) {
        ends[i] = labels + 50 * i;
        snprintf(ends[i], 50, "%s", desc->labels[i]);
    }
    desc->labels = (const char *const *)ends;
    lensnet_model_destroy(model);
    return LENSNET_OK;
}

/* Case 1 of the reports: the labels, their order and the size of a config.json count. */
static void test_config(const small_net *net)
{
    static const char hf[] =
        "{\"model_type\":\"convnextv2\",\"depths\":[1,1,1,1],\"hidden_sizes\":"
        "[8,16,32,64],\"id2label\":{\"1\":\"no\",\"0\":\"vort\",\"2\":\"sphere\"},"
        "\"image_size\":128,\"layer_norm_eps\":1e-12,\"x\":[1.5e-3,true,null]}";
    lensnet_load_options options = lensnet_load_defaults();
    lensnet_archive_pair told[4];
    lensnet_model_desc d;
    lensnet_error error;
    char notes[LNP_NOTES], marked[sizeof hf + 3];
    CHECK(system("rm -rf " HF " && mkdir -p " HF) == 0);
    small_save(net, TRANSFORMERS, "", "", 0, NULL);
    CHECK(rename(SCRATCH, HF "model.safetensors") == 0);
    snprintf(marked, sizeof marked, "\xef\xbb\xbf%s", hf);
    CHECK(load_hf(&d, notes, marked, NULL, NULL, &error) == LENSNET_OK);
    CHECK(!strcmp(d.labels[0], "vort") && d.preprocess.image_size == 128);
    CHECK(load_hf(&d, notes, hf, NULL, NULL, &error) == LENSNET_OK);
    CHECK(!strcmp(d.labels[0], "vort") && !strcmp(d.labels[1], "no") &&
          !strcmp(d.labels[2], "sphere"));
    CHECK(d.preprocess.image_size == 128 && d.final_norm_epsilon == 1e-12f);
    CHECK(contains(notes, "labels, image size") && contains(notes, "no normalisation") &&
          !contains(notes, "no labels"));
    /* nothing beside it: taken for granted, and said */
    CHECK(load_hf(&d, notes, NULL, NULL, NULL, &error) == LENSNET_OK);
    CHECK(!strcmp(d.labels[1], "sphere") && d.preprocess.image_size == 224);
    CHECK(contains(notes, "no labels in this file: taken to be no, sphere, vort"));
    CHECK(contains(notes, "224") && contains(notes, "znorm"));
    /* LABEL_0 names nothing; another network's configuration is not used */
    CHECK(load_hf(&d, notes,
                  "{\"id2label\":{\"0\":\"LABEL_0\",\"1\":\"LABEL_1\",\"2\":\"LABEL_2\"}}", NULL,
                  NULL, &error) == LENSNET_OK);
    CHECK(!strcmp(d.labels[2], "vort") && contains(notes, "no labels"));
    CHECK(load_hf(&d, notes, "{\"depths\":[2,2,6,2],\"image_size\":96}", NULL, NULL, &error) ==
          LENSNET_OK);
    CHECK(d.preprocess.image_size == 224 && contains(notes, "another network"));
    /* and what another program keeps under that name is passed over */
    CHECK(load_hf(&d, notes,
                  "{\"model_type\":\"vit\",\"image_size\":96,\"size\":\"large\",\"mean\":{\"a\":1},"
                  "\"depths\":\"deep\",\"crop\":null,\"resize\":[1],\"id2label\":4}",
                  "{\"size\":{\"height\":\"tall\"},\"image_mean\":null,\"crop_pct\":null}", NULL,
                  &error) == LENSNET_OK);
    CHECK(d.preprocess.image_size == 224 && contains(notes, "another network"));
    /* transformers' processor: (x / 255 - mean) / deviation, 256 of which 224 are kept */
    CHECK(
        load_hf(&d, notes, hf,
                "{\"crop_pct\":0.875,\"do_normalize\":true,\"do_rescale\":true,\"do_resize\":true,"
                "\"image_mean\":[0.5,0.25,0.125],\"image_std\":[0.5,0.5,0.5],\"resample\":3,"
                "\"rescale_factor\":0.00392156862745098,\"size\":{\"shortest_edge\":224}}",
                NULL, &error) == LENSNET_OK);
    CHECK(d.preprocess.normalisation == LENSNET_NORMALISATION_DATASET);
    CHECK_CLOSE((double)d.preprocess.mean[1], 255 * 0.25, 1e-4, "mean");
    CHECK_CLOSE((double)d.preprocess.deviation[2], 255 * 0.5, 1e-4, "deviation");
    CHECK(d.preprocess.resized == 256 && d.preprocess.image_size == 224);
    CHECK(d.preprocess.resize == LENSNET_RESIZE_BICUBIC);
    /* our own */
    CHECK(load_hf(&d, notes, hf,
                  "{\"channels\":3,\"crop\":64,\"normalisation\":\"minmax\",\"resize\":\"nearest\","
                  "\"size\":{\"height\":64,\"width\":64}}",
                  NULL, &error) == LENSNET_OK);
    CHECK(d.preprocess.crop == 64 && d.preprocess.image_size == 64 && d.preprocess.resized == 0);
    CHECK(d.preprocess.normalisation == LENSNET_NORMALISATION_MINMAX);
    /* timm's */
    CHECK(load_hf(
              &d, notes,
              "{\"architecture\":\"convnextv2_x\",\"num_classes\":3,\"label_names\":[\"a\",\"b\","
              "\"c\"],\"pretrained_cfg\":{\"input_size\":[3,96,96],\"mean\":[0.1,0.2,0.3],\"std\":"
              "[1,2,3],\"interpolation\":\"bicubic\",\"crop_pct\":0.75}}",
              NULL, NULL, &error) == LENSNET_OK);
    CHECK(!strcmp(d.labels[1], "b") && d.preprocess.image_size == 96);
    CHECK(d.preprocess.resized == 128 && d.preprocess.mean[2] == 0.3f);
    /* told: before all else, and checked */
    told[0].key = "lensnet.labels";
    told[0].value = "axion\ncdm\nno_sub";
    told[1].key = "lensnet.image_size";
    told[1].value = "64";
    told[2].key = "lensnet.normalisation";
    told[2].value = "dataset";
    told[3].key = "lensnet.mean";
    told[3].value = "0.06";
    options.told = told;
    options.told_count = 4;
    CHECK(load_hf(&d, notes, hf, NULL, &options, &error) == LENSNET_ERROR_FORMAT);
    CHECK(contains(error.text, "lensnet.deviation"));
    options.told_count = 2;
    CHECK(load_hf(&d, notes, hf, NULL, &options, &error) == LENSNET_OK);
    CHECK(!strcmp(d.labels[0], "axion") && d.preprocess.image_size == 64);
    told[0].value = "one\ntwo";
    CHECK(load_hf(&d, notes, hf, NULL, &options, &error) == LENSNET_ERROR_FORMAT);
    CHECK(contains(error.text, "2 labels") && contains(error.text, "3 classes"));
}

/* What cannot be read of a config.json is an error, for then the labels would be guessed. */
static void test_bad_configs(void)
{
    static const char *const bad[] = {"{\"id2label\":{\"1\":\"b\",\"1\":\"a\",\"0\":\"c\"}}",
                                      "{\"id2label\":{\"2\":\"b\",\"0\":\"a\",\"7\":\"c\"}}",
                                      "{\"id2label\":{\"x\":\"b\",\"0\":\"a\",\"1\":\"c\"}}",
                                      "{\"id2label\":{\"0\":5}}",
                                      "{\"id2label\":{\"0\":\"a\",\"1\":\"b\"}}",
                                      "{\"image_size\":3}",
                                      "{\"image_size\":1e400}",
                                      "{\"id2label\":",
                                      "",
                                      "{} x"};
    lensnet_model_desc d;
    lensnet_error error;
    char notes[LNP_NOTES];
    size_t i;
    long n;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        lensnet_result result = load_hf(&d, notes, bad[i], NULL, NULL, &error);
        if (!result) printf("%s was read\n", bad[i]);
        CHECK(result == LENSNET_ERROR_FORMAT);
    }
    for (n = 1; n < 1000; n++) {
        faulty f;
        lensnet_host host = faulty_host(&f);
        lensnet_load_options options = lensnet_load_defaults();
        lensnet_result result;
        options.host = &host;
        f.fail_allocation = n;
        result = load_hf(&d, notes, "{\"id2label\":{\"0\":\"a\",\"1\":\"b\",\"2\":\"c\"}}",
                         "{\"size\":64}", &options, &error);
        CHECK(f.live == 0 &&
              (!result || result == LENSNET_ERROR_MEMORY || result == LENSNET_ERROR_FORMAT));
        if (!result) break;
    }
    CHECK(n > 10 && n < 1000 && d.preprocess.image_size == 64);
    CHECK(system("rm -rf " HF) == 0);
}

/* Prefixes that are told, several networks in one file, and a ConvNeXt V1. */
static void test_prefixes(const small_net *net)
{
    static char names[2 * NAMES + 1][160];
    static const float zero[8] = {0};
    lensnet_archive_tensor tensors[2 * NAMES + 1];
    lensnet_archive_pair told[1] = {{"lensnet.prefix", "b."}};
    lensnet_classifier_options options = lensnet_classifier_defaults();
    lensnet_classifier *classifier;
    lensnet_error error;
    size_t i;
    memset(tensors, 0, sizeof tensors);
    for (i = 0; i < 2 * NAMES; i++) {
        size_t k = i % NAMES;
        snprintf(names[i], sizeof names[i], "%s%s", i < NAMES ? "a." : "b.",
                 net->names[k][AUTHORS]);
        tensors[i].name = names[i];
        tensors[i].dtype = LENSNET_DTYPE_F32;
        tensors[i].rank = net->rank[k];
        memcpy(tensors[i].shape, net->shape[k], sizeof net->shape[k]);
        tensors[i].values = net->values[k];
    }
    tensors[2 * NAMES].name = "criterion.weight";
    tensors[2 * NAMES].dtype = LENSNET_DTYPE_F32;
    tensors[2 * NAMES].values = zero;
    CHECK(!lensnet_archive_save(SCRATCH, tensors, 2 * NAMES, NULL, 0, NULL, NULL));
    CHECK(lensnet_classifier_load(&classifier, SCRATCH, NULL, &error) == LENSNET_ERROR_FORMAT);
    CHECK(contains(error.text, "'a.'") && contains(error.text, "'b.'") &&
          contains(error.text, "--prefix"));
    options.told = told;
    options.told_count = 1;
    CHECK(lensnet_classifier_load(&classifier, SCRATCH, &options, &error) == LENSNET_OK);
    CHECK(contains(lensnet_classifier_notes(classifier), "b."));
    lensnet_classifier_destroy(classifier);
    CHECK(!lensnet_archive_save(SCRATCH, tensors + NAMES, NAMES + 1, NULL, 0, NULL, NULL));
    CHECK(lensnet_classifier_load(&classifier, SCRATCH, NULL, &error) == LENSNET_ERROR_FORMAT);
    CHECK(contains(error.text, "'criterion.weight'") && contains(error.text, "--prefix b."));
    CHECK(lensnet_classifier_load(&classifier, SCRATCH, &options, &error) == LENSNET_OK);
    lensnet_classifier_destroy(classifier);
    told[0].value = "c.";
    CHECK(lensnet_classifier_load(&classifier, SCRATCH, &options, &error) == LENSNET_ERROR_FORMAT);
    CHECK(contains(error.text, "'c.'") && contains(error.text, "'b."));
    for (i = 0; i < NAMES; i++) { /* V1: layer scale in place of the GRN */
        char *grn = strstr(names[i], "grn.");
        if (grn) strcpy(grn, grn[4] == 'g' ? "gamma" : "old_beta");
    }
    CHECK(!lensnet_archive_save(SCRATCH, tensors, NAMES, NULL, 0, NULL, NULL));
    CHECK(lensnet_classifier_load(&classifier, SCRATCH, NULL, &error) == LENSNET_ERROR_UNSUPPORTED);
    CHECK(contains(error.text, "ConvNeXt V1"));
}

/* A quantised network's integers are no weights without their scales. */
static void test_whole_numbers(const small_net *net)
{
    static const unsigned char bytes[1 << 16] = {0};
    lensnet_archive_tensor tensors[NAMES];
    lensnet_classifier *classifier;
    lensnet_model *model;
    lensnet_error error;
    size_t i;
    memset(tensors, 0, sizeof tensors);
    for (i = 0; i < NAMES; i++) {
        tensors[i].name = net->names[i][AUTHORS];
        tensors[i].dtype = i == 1 ? LENSNET_DTYPE_I8 : LENSNET_DTYPE_F32;
        tensors[i].rank = net->rank[i];
        memcpy(tensors[i].shape, net->shape[i], sizeof net->shape[i]);
        if (i == 1)
            tensors[i].bytes = bytes;
        else
            tensors[i].values = net->values[i];
    }
    CHECK(!lensnet_archive_save(SCRATCH, tensors, NAMES, NULL, 0, NULL, NULL));
    CHECK(lensnet_classifier_load(&classifier, SCRATCH, NULL, &error) == LENSNET_ERROR_UNSUPPORTED);
    CHECK(contains(error.text, "I8") && contains(error.text, "quantised"));
    CHECK(lensnet_model_load(&model, SCRATCH, NULL, NULL, &error) == LENSNET_ERROR_UNSUPPORTED);
}

int main(void)
{
    static small_net net;
    small_load(&net);
    test_halves();
    test_bfloats();
    test_basic();
    test_good_files();
    test_reference_writer();
    test_bad_files();
    test_headers();
    test_truncation();
    test_bit_flips();
    test_checksums();
    test_shards();
    test_wrong_files();
    test_beyond_4_gib();
    test_round_trip();
    test_refused_saves();
    test_unreadable();
    test_faults();
    test_slots();
    test_dialects(&net);
    test_wrong_networks(&net);
    test_unexpected(&net);
    test_folder();
    test_config(&net);
    test_bad_configs();
    test_prefixes(&net);
    test_whole_numbers(&net);
    small_release(&net);
    remove(SCRATCH);
    return test_end();
}
