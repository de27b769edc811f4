/* test_convert.c - tools/convert.c and the reader of PyTorch files below it, on files that torch
 * wrote and on files made to harm.
 * cc -O2 -fopenmp -I. tests/test_convert.c -o build/test_convert -lm */
#define CONVERT_NO_MAIN
#include "tools/convert.c"
#include "tests/fixture.h"
#include "tests/test.h"

#define TORCH   "tests/fixtures/torch/"
#define OUT     "build/test_convert.d" /* a folder beside no weights: what stands there would be read */
#define SCRATCH "build/test_convert.tmp.safetensors"

/* --- reading what torch wrote ----------------------------------------------------------------- */

static const char *torch_name(lensnet_dtype dtype)
{
    switch (dtype) {
    case LENSNET_DTYPE_F32: return "torch.float32";
    case LENSNET_DTYPE_F64: return "torch.float64";
    case LENSNET_DTYPE_F16: return "torch.float16";
    case LENSNET_DTYPE_BF16: return "torch.bfloat16";
    case LENSNET_DTYPE_I64: return "torch.int64";
    case LENSNET_DTYPE_I32: return "torch.int32";
    case LENSNET_DTYPE_U8: return "torch.uint8";
    case LENSNET_DTYPE_BOOL: return "torch.bool";
    default: return "?";
    }
}

/* One tensor of the archive against what torch said about it. */
static int same_as_torch(const lensnet_archive *archive, const lensnet_archive_entry *entry,
                         const char *expected)
{
    char path[64];
    double shape[8], values[64];
    float read[64];
    const char *dtype;
    int i, count, good;
    snprintf(path, sizeof path, "%s/dtype", entry->name);
    dtype = fixture_find(expected, path);
    good = dtype &&
           strncmp(dtype + 2, torch_name(entry->dtype), strlen(torch_name(entry->dtype))) == 0;
    snprintf(path, sizeof path, "%s/shape", entry->name);
    good = good && fixture_numbers(expected, path, shape, 8) == entry->rank;
    for (i = 0; good && i < entry->rank; i++) good = shape[i] == (double)entry->shape[i];
    snprintf(path, sizeof path, "%s/values", entry->name);
    count = fixture_numbers(expected, path, values, 64);
    good = good && (uint64_t)count == entry->count &&
           lensnet_archive_read_float(read, archive, entry, NULL) == LENSNET_OK;
    for (i = 0; good && i < count; i++) good = read[i] == (float)values[i];
    return good;
}

static void test_state_dicts(void)
{
    static const char *const files[] = {
        "state_dict.pt",        "state_dict_legacy.pt",          "state_dict_proto3.pt",
        "state_dict_proto4.pt", "ok_repacked_python_zipfile.pt", "ok_torch2_extra_records.pt"};
    char *expected = fixture_load(TORCH "state_dict.txt", NULL);
    size_t i, k;
    for (i = 0; i < sizeof files / sizeof *files; i++) {
        char path[96];
        torch_file torch;
        lensnet_archive *archive;
        lensnet_host host;
        lensnet_error error;
        int good;
        snprintf(path, sizeof path, TORCH "%s", files[i]);
        error.text[0] = 0;
        good = torch_file_open(&torch, path, NULL, &error) == LENSNET_OK;
        good = good && torch_file_host(&torch, &host, &error) == LENSNET_OK;
        good = good && lensnet_archive_open(&archive, path, &host, &error) == LENSNET_OK;
        if (!good) printf("%s\n", error.text);
        test_check(good, path, __FILE__, __LINE__);
        if (!good) continue;
        CHECK_CLOSE((double)lensnet_archive_count(archive), 14, 0, path);
        for (k = 0; k < lensnet_archive_count(archive); k++) {
            const lensnet_archive_entry *entry = lensnet_archive_at(archive, k);
            test_check(same_as_torch(archive, entry, expected), entry->name, path, (int)k);
        }
        lensnet_archive_close(archive);
        torch_file_close(&torch);
    }
    free(expected);
}

static void test_small_files(void)
{
    static const float handmade[6] = {0, 1, 2, 3, 4, 5};
    torch_file file;
    lensnet_error error;
    CHECK(torch_file_open(&file, TORCH "ok_handmade.pt", NULL, &error) == LENSNET_OK);
    CHECK(file.count == 1 && pickle_is(file.tensors[0].name, "w") && file.tensors[0].rank == 2);
    CHECK(file.count == 1 && memcmp(file.tensors[0].data, handmade, sizeof handmade) == 0);
    torch_file_close(&file);
    CHECK(torch_file_open(&file, TORCH "parameter.pt", NULL, &error) == LENSNET_OK);
    CHECK(file.count == 1 && pickle_is(file.tensors[0].name, "p") && file.tensors[0].count == 4);
    torch_file_close(&file);
    CHECK(torch_file_open(&file, TORCH "parameter.pt", "model", &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(strstr(error.text, "'model'") != NULL);
    CHECK(torch_file_open(&file, "build/none.pth", NULL, &error) == LENSNET_ERROR_FILE);
    CHECK(!torch_file_probe(TORCH "state_dict.txt") && torch_file_probe(TORCH "parameter.pt"));
}

/* --- refusing --------------------------------------------------------------------------------- */

static void test_refusals(void)
{
    static const char *const bad[][2] = {
        {"bad_global_mixed.pt", "'x' is not a tensor: the file wants '__builtin__ print'"},
        {"bad_global_print.pt", "'__builtin__ print' to be called"},
        {"bad_huge_size.pt", "far larger than the numbers"},
        {"bad_missing_storage.pt", "has no numbers in the file"},
        {"bad_negative_offset.pt", "negative offset"},
        {"bad_negative_size.pt", "negative size"},
        {"bad_offset_oob.pt", "behind the end of its storage"},
        {"bad_short_storage.pt", "fewer numbers in the file"},
        {"bad_stride_oob.pt", "behind the end of its storage"},
        {"bad_truncated_file.pt", "no end record"},
        {"bad_truncated_pickle.pt", "cut off"},
        {"bigendian_marker.pt", "not little-endian"},
        {"deflated.pt", "compressed"},
        {"state_dict.txt", "begins like neither"}};
    size_t i;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        char path[96];
        torch_file file;
        lensnet_error error;
        lensnet_result result;
        snprintf(path, sizeof path, TORCH "%s", bad[i][0]);
        result = torch_file_open(&file, path, NULL, &error);
        if (result && !strstr(error.text, bad[i][1])) printf("%s\n", error.text);
        test_check(result != LENSNET_OK && error.code == result && strstr(error.text, bad[i][1]) &&
                       strstr(error.text, path) && !file.bytes && !file.blocks,
                   bad[i][0], __FILE__, __LINE__);
    }
}

/* Pickles by hand: the machine stops at the first thing that is wrong. */
static void test_pickles(void)
{
#define PICKLE(text, problem)                                                                      \
    {                                                                                              \
        text, sizeof text - 1, problem                                                             \
    }
    static const struct {
        const char *bytes;
        size_t length;
        const char *problem; /* NULL: good */
    } cases[] = {PICKLE("\x80\x02}.", NULL),
                 PICKLE("\x80\x04\x95\x02\0\0\0\0\0\0\0}.", NULL),
                 PICKLE("K\x05M\x01\x02\x86.", NULL),
                 PICKLE("(K\x01K\x02t.", NULL),
                 PICKLE("\x8a\x02\xff\x7f.", NULL),
                 PICKLE("]q\x01h\x01"
                        "a.",
                        NULL),
                 PICKLE("]\x94K\x01"
                        "a.",
                        NULL),
                 PICKLE("cos\nsystem\nU\x02ls\x85R.", NULL), /* opaque, and harmless */
                 PICKLE("", "cut off"),
                 PICKLE("}", "cut off"),
                 PICKLE(".", "nothing on the stack"),
                 PICKLE("(.", "nothing on the stack"),
                 PICKLE("K\x01\x86.", "nothing on the stack"),
                 PICKLE("K\x01t.", "no mark"),
                 PICKLE("K\x01u.", "no mark"),
                 PICKLE("h\x05.", "a note that was not made"),
                 PICKLE("q\x01.", "nothing on the stack"),
                 PICKLE("}r\xff\xff\xff\xff.", "cannot be kept"),
                 PICKLE("X\xff\xff\xff\xff"
                        "abc.",
                        "cut off"),
                 PICKLE("\x8d\xff\xff\xff\xff\xff\xff\xff\xff"
                        "abc.",
                        "cut off"),
                 PICKLE("U\x05"
                        "abc.",
                        "cut off"),
                 PICKLE("cabc", "cut off"),
                 PICKLE("K\x01)R.", "no function"),
                 PICKLE("K\x01K\x02s.", "takes none"),
                 PICKLE("}(K\x01u.", "takes none"),
                 PICKLE("]}b.", "has none"),
                 PICKLE("K\x01Q.", "persistent id"),
                 PICKLE("K\x01K\x02\x93.", "no text"),
                 PICKLE("ctorch._utils\n_rebuild_tensor_v2\n)R.", "made of something else"),
                 PICKLE("ios\nsystem\n.", "instruction 0x69"),
                 PICKLE("\xff.", "instruction 0xff")};
    size_t i;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char *bytes = (unsigned char *)malloc(cases[i].length + 1);
        const unsigned char *next;
        torch_file file;
        pickle_value value;
        lensnet_error error;
        int good;
        memset(&file, 0, sizeof file);
        memcpy(bytes, cases[i].bytes, cases[i].length);
        file.path = "pickle";
        file.error = &error;
        error.text[0] = 0;
        torch_begin(&file);
        good = torch_unpickle(&file, bytes, bytes + cases[i].length, &value, &next);
        if (good != !cases[i].problem) printf("case %d: %s\n", (int)i, error.text);
        CHECK(good == !cases[i].problem);
        CHECK(good || strstr(error.text, cases[i].problem));
        free(bytes);
        torch_file_close(&file);
    }
}

/* Opens a copy of the bytes, at the end of a block of just their size, and reads all tensors
 * through the hooks. */
static lensnet_result read_all(const unsigned char *bytes, size_t size)
{
    unsigned char *copy = (unsigned char *)malloc(size ? size : 1);
    torch_file torch;
    lensnet_archive *archive = NULL;
    lensnet_host host;
    lensnet_result result;
    size_t i;
    memcpy(copy, bytes, size);
    result = torch_file_open_memory(&torch, copy, size, NULL, NULL);
    if (!result) result = torch_file_host(&torch, &host, NULL);
    if (!result) result = lensnet_archive_open(&archive, "memory", &host, NULL);
    for (i = 0; !result && i < lensnet_archive_count(archive); i++) {
        const lensnet_archive_entry *entry = lensnet_archive_at(archive, i);
        float *values = (float *)malloc((size_t)entry->count * sizeof *values + 1);
        if (values) result = lensnet_archive_read_float(values, archive, entry, NULL);
        free(values);
    }
    lensnet_archive_close(archive);
    torch_file_close(&torch);
    return result;
}

static void test_damage(const char *path)
{
    size_t size, i, accepted = 0, refused = 0;
    unsigned char *bytes = (unsigned char *)fixture_load(path, &size);
    for (i = 0; i < size; i++) accepted += read_all(bytes, i) == LENSNET_OK;
    CHECK(accepted == 0);
    CHECK(read_all(bytes, size) == LENSNET_OK);
    for (i = 0; i < 8 * size; i++) {
        bytes[i / 8] = (unsigned char)(bytes[i / 8] ^ 1u << i % 8);
        refused += read_all(bytes, size) != LENSNET_OK;
        bytes[i / 8] = (unsigned char)(bytes[i / 8] ^ 1u << i % 8);
    }
    CHECK(refused > size); /* numbers, names and padding may be other ones */
    free(bytes);
}

/* --- converting ------------------------------------------------------------------------------- */

static char summary[SUMMARY];

static settings job(const char *in, const char *out)
{
    settings s;
    memset(&s, 0, sizeof s);
    s.in = in;
    s.out = out;
    return s;
}

/* Every tensor of `a` is in `b`, in the same type and shape, with the same bytes. */
static int same_archives(const char *path_a, const char *path_b)
{
    lensnet_archive *a = NULL, *b = NULL;
    size_t i;
    int good = !lensnet_archive_open(&a, path_a, NULL, NULL) &&
               !lensnet_archive_open(&b, path_b, NULL, NULL) &&
               lensnet_archive_count(a) == lensnet_archive_count(b);
    for (i = 0; good && i < lensnet_archive_count(a); i++) {
        const lensnet_archive_entry *x = lensnet_archive_at(a, i);
        const lensnet_archive_entry *y = lensnet_archive_find(b, x->name);
        unsigned char *bytes = (unsigned char *)malloc(2 * (size_t)x->bytes + 1);
        good = y && x->dtype == y->dtype && x->rank == y->rank && x->bytes == y->bytes &&
               memcmp(x->shape, y->shape, sizeof x->shape) == 0 &&
               !lensnet_archive_read_bytes(bytes, a, x, NULL) &&
               !lensnet_archive_read_bytes(bytes + x->bytes, b, y, NULL) &&
               memcmp(bytes, bytes + x->bytes, (size_t)x->bytes) == 0;
        free(bytes);
    }
    lensnet_archive_close(a);
    lensnet_archive_close(b);
    return good;
}

static void test_conversion(void)
{
    static const char *const reference = "tests/fixtures/files/small_hf_f16.safetensors";
    static const char *const again = "build/test_convert.again.safetensors";
    lensnet_archive *archive;
    lensnet_error error;
    settings s = job(TORCH "small_fb_with_args_namespace.pth", SCRATCH);
    s.half = 1;
    CHECK(convert(summary, &s, &error) == LENSNET_OK);
    CHECK(same_archives(SCRATCH, reference));
    CHECK(strstr(summary, "60 tensors, 63027 weights, F16") != NULL);
    s.half = 0;
    CHECK(convert(summary, &s, &error) == LENSNET_OK);
    CHECK(lensnet_archive_open(&archive, SCRATCH, NULL, &error) == LENSNET_OK);
    CHECK(lensnet_archive_count(archive) == 60 &&
          lensnet_archive_at(archive, 0)->dtype == LENSNET_DTYPE_F32);
    CHECK(strcmp(lensnet_archive_metadata(archive, "format"), "pt") == 0);
    lensnet_archive_close(archive);
    s = job(SCRATCH, again); /* what was converted can be converted, and halved, again */
    CHECK(convert(summary, &s, &error) == LENSNET_OK);
    CHECK(same_archives(SCRATCH, again));
    s.half = 1;
    CHECK(convert(summary, &s, &error) == LENSNET_OK);
    CHECK(same_archives(again, reference));
    s = job(TORCH "state_dict.pt", again);
    CHECK(convert(summary, &s, &error) == LENSNET_ERROR_FORMAT &&
          strstr(error.text, "no ConvNeXt V2"));
    CHECK(same_archives(again, reference));
    remove(again);
}

/* The labels that a classifier finds in the file, or "". */
static const char *labels_of(const char *path)
{
    static char text[200];
    lensnet_archive *archive;
    const char *labels;
    text[0] = 0;
    if (lensnet_archive_open(&archive, path, NULL, NULL)) return text;
    labels = lensnet_archive_metadata(archive, "lensnet.labels");
    snprintf(text, sizeof text, "%s", labels ? labels : "");
    lensnet_archive_close(archive);
    return text;
}

static int file_has(const char *path, const char *what)
{
    char *text = fixture_load(path, NULL);
    int has = strstr(text, what) != NULL;
    free(text);
    return has;
}

static void test_folder(void)
{
    static const char *const files[] = {"model.safetensors", "config.json",
                                        "preprocessor_config.json", "image_processing_lensnet.py",
                                        "README.md"};
    lensnet_archive_pair told[2] = {{"lensnet.labels", "no\nsphere\nvort"},
                                    {"lensnet.image_size", "128"}};
    lensnet_error error;
    size_t i;
    settings s = job(TORCH "small_fb_with_args_namespace.pth", OUT);
    CHECK(system("mkdir -p " OUT) == 0);
    s.folder = 1;
    s.told = told;
    s.told_count = 2;
    CHECK(convert(summary, &s, &error) == LENSNET_OK);
    CHECK(file_has(OUT "/config.json", "\"2\": \"vort\"") &&
          file_has(OUT "/config.json", "\"image_size\": 128"));
    CHECK(!strcmp(labels_of(OUT "/model.safetensors"), "no\nsphere\nvort"));
    s = job(OUT, SCRATCH); /* a folder goes in, and keeps what it says */
    CHECK(convert(summary, &s, &error) == LENSNET_OK);
    CHECK(!strcmp(labels_of(SCRATCH), "no\nsphere\nvort"));
    s = job(SCRATCH, OUT); /* case 10: the metadata of a lensnet file go out again */
    s.folder = 1;
    CHECK(convert(summary, &s, &error) == LENSNET_OK);
    CHECK(file_has(OUT "/config.json", "\"1\": \"sphere\"") &&
          file_has(OUT "/config.json", "\"image_size\": 128"));
    for (i = 0; i < 2; i++) { /* the count is checked, with and without a folder */
        s.told = told;
        s.told_count = 1;
        s.folder = (int)i;
        told[0].value = i ? "one\ntwo" : "one\ntwo\nthree\nfour";
        CHECK(convert(summary, &s, &error) != LENSNET_OK && strstr(error.text, "3 classes"));
    }
    for (i = 0; i < sizeof files / sizeof *files; i++) {
        char path[60];
        snprintf(path, sizeof path, OUT "/%s", files[i]);
        CHECK(remove(path) == 0);
    }
}

static void test_verify(void)
{
    lensnet_error error;
    settings s = job(TORCH "small_fb_with_args_namespace.pth", SCRATCH);
    char *bytes;
    size_t size;
    FILE *file;
    CHECK(convert(summary, &s, &error) == LENSNET_OK && strstr(summary, "no labels in this file"));
    CHECK(!strcmp(labels_of(SCRATCH), "")); /* what nobody said is not written */
    s.in = SCRATCH;
    CHECK(verify(summary, &s, &error) == LENSNET_OK && strstr(summary, "as they were saved"));
    bytes = fixture_load(SCRATCH, &size);
    bytes[size - 100] ^= 8;
    file = fopen(SCRATCH, "wb");
    CHECK(file && fwrite(bytes, 1, size, file) == size && !fclose(file));
    free(bytes);
    CHECK(verify(summary, &s, &error) == LENSNET_ERROR_FORMAT && strstr(error.text, "damaged"));
    CHECK(convert(summary, &s, &error) == LENSNET_ERROR_FORMAT && strstr(error.text, "damaged"));
}

/* --- several sets, sparse layout: pickles made here ------------------------------------------- */

typedef struct writer {
    unsigned char bytes[40000];
    size_t length;
} writer;

static void add(writer *w, const void *bytes, size_t count)
{
    memcpy(w->bytes + w->length, bytes, count);
    w->length += count;
}

static void add_number(writer *w, uint32_t value, size_t size)
{
    for (; size > 0; size--, value >>= 8) {
        unsigned char byte = (unsigned char)(value & 255u);
        add(w, &byte, 1);
    }
}

static void add_string(writer *w, const char *text)
{
    add(w, "X", 1);
    add_number(w, (uint32_t)strlen(text), 4);
    add(w, text, strlen(text));
}

static void add_whole(writer *w, uint32_t value)
{
    add(w, "J", 1);
    add_number(w, value, 4);
}

/* A tensor whose numbers are those of the storage "0" from `offset` on. */
static void add_tensor(writer *w, uint32_t offset, const uint32_t *shape, int rank, uint32_t stored)
{
    uint32_t step[4];
    int i;
    add(w, "ctorch._utils\n_rebuild_tensor_v2\n((", 35);
    add_string(w, "storage");
    add(w, "ctorch\nFloatStorage\n", 20);
    add_string(w, "0");
    add_string(w, "cpu");
    add_whole(w, stored);
    add(w, "tQ", 2);
    add_whole(w, offset);
    add(w, "(", 1);
    for (i = 0; i < rank; i++) add_whole(w, shape[i]);
    add(w, "t(", 2);
    for (i = rank - 1; i >= 0; i--) step[i] = i == rank - 1 ? 1 : step[i + 1] * shape[i + 1];
    for (i = 0; i < rank; i++) add_whole(w, step[i]);
    add(w, "t\x89)tR", 5);
}

/* The old form of torch.save around a pickle of the root; the storage holds 0, 1, 2 ... */
static unsigned char *legacy_file(const writer *root, uint32_t stored, size_t *size)
{
    static const char system[] = "\x80\x02}(X\x0d\0\0\0little_endian\x88u.";
    writer *w = (writer *)calloc(1, sizeof *w);
    unsigned char *bytes;
    uint32_t i;
    add(w, torch_legacy_mark, sizeof torch_legacy_mark);
    add(w, "\x80\x02M\xe9\x03.", 6);
    add(w, system, sizeof system - 1);
    add(w, "\x80\x02", 2);
    add(w, root->bytes, root->length);
    add(w,
        ".\x80\x02]X\x01\0\0\0"
        "0a.",
        12);
    add_number(w, stored, 4);
    add_number(w, 0, 4);
    for (i = 0; i < stored; i++) {
        float value = (float)i;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        add_number(w, bits, 4);
    }
    bytes = (unsigned char *)malloc(w->length);
    memcpy(bytes, w->bytes, w->length);
    *size = w->length;
    free(w);
    return bytes;
}

/* A dictionary, still open, of two sets that have a tensor "w" each. */
static void begin_two_sets(writer *root, const char *first, const char *second)
{
    static const uint32_t shape[1] = {2};
    size_t i;
    root->length = 0;
    add(root, "}(", 2);
    for (i = 0; i < 2; i++) {
        add_string(root, i ? second : first);
        add(root, "}", 1);
        add_string(root, "w");
        add_tensor(root, (uint32_t)(2 * i), shape, 1, 4);
        add(root, "s", 1);
    }
}

/* Cases 3: of state_dict and state_dict_ema the average is read, and named; --key names another. */
static void test_sets(void)
{
    static writer root;
    torch_file file;
    lensnet_error error;
    unsigned char *bytes;
    size_t size, i;
    begin_two_sets(&root, "state_dict", "state_dict_ema");
    add_string(&root, "epoch");
    add_whole(&root, 1);
    add(&root, "u", 1);
    for (i = 0; i < 3; i++) {
        const char *const keys[3] = {NULL, "state_dict", "state_dicts"};
        lensnet_result result;
        bytes = legacy_file(&root, 4, &size);
        result = torch_file_open_memory(&file, bytes, size, keys[i], &error);
        if (i == 2) {
            CHECK(result == LENSNET_ERROR_ARGUMENT);
            CHECK(strstr(error.text, "'state_dict', 'state_dict_ema'") != NULL);
            continue;
        }
        CHECK(result == LENSNET_OK);
        CHECK(file.count == 1 &&
              ((const float *)(const void *)file.tensors[0].data)[0] == (i ? 0.0f : 2.0f));
        CHECK(i ? !file.set.length : pickle_is(file.set, "state_dict_ema"));
        torch_file_close(&file);
    }
}

/* mmengine has put the average under "state_dict". */
static void test_mmengine_sets(void)
{
    static writer root;
    torch_file file;
    unsigned char *bytes;
    size_t size;
    begin_two_sets(&root, "state_dict", "ema_state_dict");
    add(&root, "u", 1);
    bytes = legacy_file(&root, 4, &size);
    CHECK(torch_file_open_memory(&file, bytes, size, NULL, NULL) == LENSNET_OK);
    CHECK(pickle_is(file.set, "state_dict"));
    torch_file_close(&file);
}

/* Two sets of names that tell nothing of which is meant, as DINO's. */
static void test_unusual_sets(void)
{
    static writer root;
    torch_file file;
    lensnet_error error;
    unsigned char *bytes;
    size_t size;
    begin_two_sets(&root, "student", "teacher");
    add(&root, "u", 1);
    bytes = legacy_file(&root, 4, &size);
    CHECK(torch_file_open_memory(&file, bytes, size, NULL, &error) == LENSNET_ERROR_ARGUMENT);
    CHECK(strstr(error.text, "(--key)? 'student', 'teacher'") != NULL);
}

/* {"epoch": 1, "checkpoint": {"model": {"module": {"w": ...}}}} and two ways down. */
static void test_sets_in_sets(void)
{
    static const char *const names[3] = {"checkpoint", "model", "module"};
    static const uint32_t shape[1] = {2};
    static writer root;
    torch_file file;
    lensnet_error error;
    unsigned char *bytes;
    size_t size, i, two;
    for (two = 0; two < 2; two++) {
        root.length = 0;
        for (i = 0; i < 3; i++) {
            add(&root, "}", 1);
            add_string(&root, names[i]);
        }
        add(&root, "}", 1);
        add_string(&root, two ? "a" : "w");
        if (two) add(&root, "}", 1), add_string(&root, "w");
        add_tensor(&root, 2, shape, 1, 4);
        add(&root, "s", 1);
        if (two) {
            add(&root, "s", 1);
            add_string(&root, "b");
            add(&root, "}", 1);
            add_string(&root, "w");
            add_tensor(&root, 0, shape, 1, 4);
            add(&root, "ss", 2);
        }
        add(&root, "sss", 3);
        bytes = legacy_file(&root, 4, &size);
        if (two) {
            CHECK(torch_file_open_memory(&file, bytes, size, NULL, &error) ==
                  LENSNET_ERROR_ARGUMENT);
            CHECK(strstr(error.text, "(--key)? 'a', 'b'") != NULL);
            continue;
        }
        CHECK(torch_file_open_memory(&file, bytes, size, NULL, &error) == LENSNET_OK);
        CHECK(file.count == 1 && ((const float *)(const void *)file.tensors[0].data)[0] == 2.0f);
        torch_file_close(&file);
    }
}

/* Case 9: kernels of MinkowskiEngine, as the authors' remap_checkpoint_keys lays them out. */
static void test_sparse(void)
{
    static const uint32_t depthwise[2] = {9, 2}, full[3] = {4, 3, 5}, row[2] = {1, 2};
    static writer root;
    torch_file file;
    lensnet_error error;
    unsigned char *bytes;
    size_t size, i, o, in, y, x;
    int good = 1;
    root.length = 0;
    add(&root, "}(", 2);
    add_string(&root, "encoder.stages.0.0.dwconv.kernel");
    add_tensor(&root, 0, depthwise, 2, 60);
    add_string(&root, "encoder.downsample_layers.1.1.kernel");
    add_tensor(&root, 0, full, 3, 60);
    add_string(&root, "encoder.stages.0.0.norm.ln.weight");
    add_tensor(&root, 0, row, 2, 60);
    add_string(&root, "encoder.stages.0.0.pwconv1.linear.bias");
    add_tensor(&root, 0, row, 2, 60);
    add_string(&root, "mask_token");
    add_tensor(&root, 0, row, 2, 60);
    add(&root, "u", 1);
    bytes = legacy_file(&root, 60, &size);
    CHECK(torch_file_open_memory(&file, bytes, size, NULL, &error) == LENSNET_OK);
    CHECK(file.count == 4);
    for (i = 0; i < file.count; i++) {
        const torch_tensor *t = &file.tensors[i];
        const float *v = (const float *)(const void *)t->data;
        if (pickle_is(t->name, "encoder.stages.0.0.dwconv.weight"))
            for (o = 0; o < 2; o++)
                for (y = 0; y < 3; y++)
                    for (x = 0; x < 3; x++)
                        good = good && t->rank == 4 && t->shape[0] == 2 && t->shape[3] == 3 &&
                               v[(o * 3 + y) * 3 + x] == (float)((x * 3 + y) * 2 + o);
        else if (pickle_is(t->name, "encoder.downsample_layers.1.1.weight"))
            for (o = 0; o < 5; o++)
                for (in = 0; in < 3; in++)
                    for (y = 0; y < 2; y++)
                        for (x = 0; x < 2; x++)
                            good = good && v[((o * 3 + in) * 2 + y) * 2 + x] ==
                                               (float)(((x * 2 + y) * 3 + in) * 5 + o);
        else
            good = good && (pickle_is(t->name, "encoder.stages.0.0.norm.weight") ||
                            pickle_is(t->name, "encoder.stages.0.0.pwconv1.bias"));
    }
    CHECK(good);
    torch_file_close(&file);
}

int main(void)
{
    test_state_dicts();
    test_small_files();
    test_refusals();
    test_pickles();
    test_damage(TORCH "state_dict.pt");
    test_damage(TORCH "state_dict_legacy.pt");
    test_damage(TORCH "state_dict_proto4.pt");
    test_conversion();
    test_folder();
    test_verify();
    test_sets();
    test_mmengine_sets();
    test_unusual_sets();
    test_sets_in_sets();
    test_sparse();
    remove(SCRATCH);
    return test_end();
}
