/* test_crash.c - pulls the plug. The file functions of the C library are replaced by ones that also keep
 * a book of what a crash would leave: after every operation of a save each state that a disk could be in
 * is examined, where what was not forced to it is kept, dropped, cut, filled with zeros or in another
 * order. A file must then be the old one or the new one, whole, and after success the new one.
 * Where files cannot be caught so (no glibc) nothing is tested, with a word.
 * cc -O2 -fopenmp -I. tests/test_crash.c -o build/test_crash -lm -ldl */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_NEXT */
#endif
#include "examples/system.h"
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"

#include <math.h>

#include "examples/dataset.h"
#include "examples/run_folder.h"
#include "tests/test.h"

#include <dlfcn.h>

#define FOLDER "build/test_crash.d"

enum { MOST = 64, VARIANTS = 16, WRITES = 4096 };

/* ---- the book ------------------------------------------------------------------------------------ */

typedef struct write_of {
    size_t offset, length;
    unsigned char *bytes;
} write_of;

/* What was written to a file: in the program's buffer, in the system's, and on the disk. */
typedef struct inode {
    write_of writes[WRITES];
    size_t count, flushed, synced; /* the first `synced` are on the disk */
    size_t end;
} inode;

/* A change of a name: to a file, or (file = -1) to nothing. */
typedef struct renaming {
    char name[200];
    int file, with_next; /* with_next: the next one happens in the same moment */
} renaming;

static inode *files[MOST];
static renaming names[MOST * 4];
static int file_count, name_count, names_synced;
static FILE *streams[MOST]; /* of each file while it is open */
static FILE *folder_stream;
static int recording, states_seen, operations_seen;

static void (*examine)(void); /* called after every operation */

static void operation(void)
{
    operations_seen++;
    if (examine) examine();
}

static int is_ours(const char *path)
{
    return recording && strncmp(path, FOLDER "/", strlen(FOLDER "/")) == 0;
}

static int file_of(FILE *stream)
{
    int i;
    for (i = 0; recording && i < file_count; i++)
        if (streams[i] == stream) return i;
    return -1;
}

static void name_is(const char *name, int file, int with_next)
{
    renaming *r = &names[name_count++];
    if (name_count > MOST * 4) test_give_up("the book is full", name, __FILE__, __LINE__);
    snprintf(r->name, sizeof r->name, "%s", name);
    r->file = file;
    r->with_next = with_next;
}

/* The file under a name after the first `until` changes; -1: none. */
static int named(const char *name, int until)
{
    int i, file = -1;
    for (i = 0; i < until; i++)
        if (strcmp(names[i].name, name) == 0) file = names[i].file;
    return file;
}

static int new_file(void)
{
    inode *f = (inode *)calloc(1, sizeof *f);
    if (!f || file_count == MOST) test_give_up("the book is full", "files", __FILE__, __LINE__);
    files[file_count] = f;
    streams[file_count] = NULL;
    return file_count++;
}

static void add_write(inode *f, const void *bytes, size_t length)
{
    write_of *w = &f->writes[f->count++];
    if (f->count == WRITES) test_give_up("the book is full", "writes", __FILE__, __LINE__);
    w->bytes = (unsigned char *)malloc(length ? length : 1);
    if (!w->bytes) test_give_up("out of memory", "", __FILE__, __LINE__);
    memcpy(w->bytes, bytes, length);
    w->offset = f->end;
    w->length = length;
    f->end += length;
}

static void book_clear(void)
{
    size_t k;
    while (file_count > 0) {
        inode *f = files[--file_count];
        for (k = 0; k < f->count; k++) free(f->writes[k].bytes);
        free(f);
    }
    name_count = names_synced = 0;
}

/* ---- the functions of the C library -------------------------------------------------------------- */

/* A function pointer from dlsym, which C has no cast for. */
#define REAL(type, name, parameters)                                                               \
    static type(*real) parameters;                                                                 \
    if (!real) {                                                                                   \
        void *found = dlsym(RTLD_NEXT, name);                                                      \
        memcpy(&real, &found, sizeof found);                                                       \
    }

FILE *fopen(const char *path, const char *mode)
{
    FILE *stream;
    REAL(FILE *, "fopen", (const char *, const char *));
    stream = real(path, mode);
    if (!stream || !recording) return stream;
    if (strcmp(path, FOLDER) == 0) folder_stream = stream;
    if (is_ours(path) && mode[0] == 'w') {
        int file = new_file();
        streams[file] = stream;
        name_is(path, file, 0);
        operation();
    }
    return stream;
}

size_t fwrite(const void *bytes, size_t size, size_t count, FILE *stream)
{
    size_t done;
    int file = file_of(stream);
    REAL(size_t, "fwrite", (const void *, size_t, size_t, FILE *));
    done = real(bytes, size, count, stream);
    if (file >= 0) {
        add_write(files[file], bytes, size * done);
        operation();
    }
    return done;
}

int fflush(FILE *stream)
{
    int result, file = stream ? file_of(stream) : -1;
    REAL(int, "fflush", (FILE *));
    result = real(stream);
    if (file >= 0) files[file]->flushed = files[file]->count;
    return result;
}

int fsync(int descriptor)
{
    int i, result;
    REAL(int, "fsync", (int));
    result = real(descriptor);
    for (i = 0; recording && i < file_count; i++)
        if (streams[i] && fileno(streams[i]) == descriptor) {
            files[i]->synced = files[i]->flushed;
            operation();
        }
    if (recording && folder_stream && fileno(folder_stream) == descriptor) {
        names_synced = name_count;
        operation();
    }
    return result;
}

int fclose(FILE *stream)
{
    int file = file_of(stream);
    REAL(int, "fclose", (FILE *));
    if (file >= 0) {
        files[file]->flushed = files[file]->count;
        streams[file] = NULL;
    }
    if (stream == folder_stream) folder_stream = NULL;
    return real(stream);
}

int rename(const char *from, const char *to)
{
    int result;
    REAL(int, "rename", (const char *, const char *));
    result = real(from, to);
    if (result == 0 && is_ours(to)) {
        int file = named(from, name_count);
        name_is(from, -1, 1);
        name_is(to, file, 0);
        operation();
    }
    return result;
}

int link(const char *from, const char *to)
{
    int result;
    REAL(int, "link", (const char *, const char *));
    result = real(from, to);
    if (result == 0 && is_ours(to)) {
        name_is(to, named(from, name_count), 0);
        operation();
    }
    return result;
}

int unlink(const char *path)
{
    int result;
    REAL(int, "unlink", (const char *));
    result = real(path);
    if (result == 0 && is_ours(path)) {
        name_is(path, -1, 0);
        operation();
    }
    return result;
}

int remove(const char *path)
{
    int result;
    REAL(int, "remove", (const char *));
    result = real(path);
    if (result == 0 && is_ours(path)) {
        name_is(path, -1, 0);
        operation();
    }
    return result;
}

/* ---- what a crash leaves ------------------------------------------------------------------------- */

typedef struct content {
    unsigned char *bytes;
    size_t size;
} content;

static content read_file(const char *path)
{
    content c = {NULL, 0};
    FILE *file = fopen(path, "rb");
    long size;
    if (!file) return c;
    fseek(file, 0, SEEK_END);
    size = ftell(file);
    rewind(file);
    c.bytes = (unsigned char *)malloc((size_t)size + 1);
    if (!c.bytes || fread(c.bytes, 1, (size_t)size, file) != (size_t)size)
        test_give_up("cannot read", path, __FILE__, __LINE__);
    c.size = (size_t)size;
    fclose(file);
    return c;
}

static int same(content a, content b)
{
    return a.bytes && b.bytes && a.size == b.size && memcmp(a.bytes, b.bytes, a.size) == 0;
}

/* Does write number k, not forced to the disk, survive? 0: no, 1: whole, 2: its first half, 3: as zeros. */
static int survives(const inode *f, size_t k, int variant)
{
    switch (variant) {
    case 0: return 0;
    case 1: return 1;
    case 2: return k + 1 < f->count;
    case 3: return k > f->synced;
    case 4: return 2;
    case 5: return 3;
    case 6: return k + 1 < f->count ? 1 : 2;
    case 7: return k + 1 < f->count ? 3 : 1;
    default: return (int)(lensnet_random_bits((uint64_t)variant, f->count, k) & 3);
    }
}

/* The file as the disk may hold it. The caller frees its bytes. */
static content left_of(const inode *f, int variant)
{
    content c;
    size_t k;
    c.bytes = (unsigned char *)calloc(f->end + 1, 1);
    c.size = 0;
    if (!c.bytes) test_give_up("out of memory", "", __FILE__, __LINE__);
    for (k = 0; k < f->count; k++) {
        const write_of *w = &f->writes[k];
        const int how = k < f->synced ? 1 : survives(f, k, variant);
        const size_t length = how == 0 ? 0 : how == 2 ? w->length / 2 : w->length;
        if (!length) continue;
        if (how != 3) memcpy(c.bytes + w->offset, w->bytes, length);
        if (w->offset + length > c.size) c.size = w->offset + length;
    }
    return c;
}

/* Is the file under `name`, in every variant, one of these contents? `absent`: it need not be there. */
static int whole(const char *name, int until, const content *allowed, int count, int absent)
{
    const int file = named(name, until);
    int variant, i, good = 1;
    if (file < 0) return absent;
    for (variant = 0; variant < VARIANTS; variant++) {
        content c = left_of(files[file], variant);
        int found = 0;
        for (i = 0; i < count; i++) found |= same(c, allowed[i]);
        good &= found;
        free(c.bytes);
        states_seen++;
    }
    return good;
}

/* Files that stand there before the recording begins. */
static void book_file(const char *path)
{
    content c = read_file(path);
    int file = new_file();
    if (!c.bytes) test_give_up("is missing", path, __FILE__, __LINE__);
    add_write(files[file], c.bytes, c.size);
    files[file]->flushed = files[file]->synced = 1;
    name_is(path, file, 0);
    names_synced = name_count;
    free(c.bytes);
}

/* ---- saves --------------------------------------------------------------------------------------- */

#define SAVED FOLDER "/last.safetensors"
#define OLDER FOLDER "/last.previous.safetensors"

static lensnet_error error;
static content generations[3]; /* before the last, the last, the new one */
static int had_old;

static lensnet_model *model;
static lensnet_adamw *adamw;

static void make_model(void)
{
    static const size_t widths[4] = {8, 8, 8, 8}, depths[4] = {1, 1, 1, 1};
    lensnet_model_desc desc = lensnet_model_defaults();
    memcpy(desc.widths, widths, sizeof widths);
    memcpy(desc.depths, depths, sizeof depths);
    if (lensnet_model_create(&model, &desc, &error) ||
        lensnet_adamw_create(&adamw, lensnet_model_parameters(model), NULL, &error))
        test_give_up("model", error.text, __FILE__, __LINE__);
}

static int save_state(const char *path, const char *epoch)
{
    lensnet_archive_pair pair;
    pair.key = "train.epoch";
    pair.value = epoch;
    return !lensnet_state_save(model, adamw, &pair, 1, path, &error);
}

static void check_one_file(void)
{
    int until;
    for (until = names_synced; until <= name_count; until++) {
        if (until && names[until - 1].with_next) continue;
        CHECK(whole(SAVED, until, generations + 1, 2, !had_old));
    }
}

/* A state over an older one, or where there was none. */
static void test_one_file(int old)
{
    had_old = old;
    if (system("rm -rf " FOLDER " && mkdir -p " FOLDER) != 0) return;
    CHECK(save_state(SAVED, "1"));
    generations[1] = read_file(SAVED);
    CHECK(save_state(SAVED, "2"));
    generations[2] = read_file(SAVED);
    CHECK(!same(generations[1], generations[2]));
    if (old)
        CHECK(save_state(SAVED, "1"));
    else
        remove(SAVED);
    if (old) book_file(SAVED);
    examine = check_one_file;
    recording = 1;
    CHECK(save_state(SAVED, "2"));
    CHECK(whole(SAVED, names_synced, generations + 2, 1, 0)); /* what was reported as saved is */
    recording = 0;
    CHECK(same(read_file(SAVED), generations[2]));
    book_clear();
}

/* One of the two generations is there at every moment, each that is there is whole, and the last that
 * was reported as saved is not lost. */
static void check_generations(void)
{
    int until;
    for (until = names_synced; until <= name_count; until++) {
        int last, previous;
        if (until && names[until - 1].with_next) continue;
        last = whole(SAVED, until, generations + 1, 2, 0);
        previous = whole(OLDER, until, generations, 2, 0);
        CHECK(last || (named(SAVED, until) < 0 && whole(OLDER, until, generations + 1, 1, 0)));
        CHECK(previous || named(OLDER, until) < 0);
    }
}

static void test_generations(void)
{
    run_folder f;
    int i;
    if (system("rm -rf " FOLDER " && mkdir -p " FOLDER) != 0) return;
    CHECK(save_state(SAVED, "3"));
    generations[2] = read_file(SAVED);
    CHECK(save_state(OLDER, "1") && save_state(SAVED, "2"));
    generations[0] = read_file(OLDER);
    generations[1] = read_file(SAVED);
    book_file(OLDER);
    book_file(SAVED);
    CHECK(run_folder_name(&f, FOLDER, &error));
    examine = check_generations;
    recording = 1;
    CHECK(run_folder_keep(&f, &error) && save_state(f.last, "3"));
    CHECK(whole(SAVED, names_synced, generations + 2, 1, 0));
    CHECK(whole(OLDER, names_synced, generations + 1, 1, 0));
    recording = 0;
    run_folder_release(&f);
    for (i = 0; i < 3; i++) free(generations[i].bytes);
    book_clear();
}

/* A save that fails half way (the disk is full) leaves the old file too. */
static int no_more(void *file, const void *bytes, size_t count, void *user)
{
    lensnet_host inner = lensnet_host_defaults();
    return ++*(int *)user > 20 ? 1 : inner.file_write(file, bytes, count, NULL);
}

static void test_failure(void)
{
    lensnet_archive_tensor tensors[30];
    char name[30][8];
    lensnet_host host = lensnet_host_defaults();
    int i, writes = 0;
    had_old = 1;
    if (system("rm -rf " FOLDER " && mkdir -p " FOLDER) != 0) return;
    CHECK(save_state(SAVED, "1"));
    generations[1] = generations[2] = read_file(SAVED);
    book_file(SAVED);
    memset(tensors, 0, sizeof tensors);
    for (i = 0; i < 30; i++) {
        static const float value = 1;
        snprintf(name[i], sizeof name[i], "t%d", i);
        tensors[i].name = name[i];
        tensors[i].dtype = LENSNET_DTYPE_F32;
        tensors[i].values = &value;
    }
    host.file_write = no_more;
    host.user = &writes;
    examine = check_one_file;
    recording = 1;
    CHECK(lensnet_archive_save(SAVED, tensors, 30, NULL, 0, &host, &error) == LENSNET_ERROR_FILE);
    recording = 0;
    CHECK(same(read_file(SAVED), generations[1]));
    CHECK(named(SAVED ".tmp-0", name_count) < 0);
    book_clear();
}

int main(void)
{
    make_model();
    test_one_file(0);
    test_one_file(1);
    CHECK(operations_seen > 20); /* else nothing was caught */
    test_generations();
    test_failure();
    printf("note: %d states of the disk after %d operations\n", states_seen, operations_seen);
    lensnet_adamw_destroy(adamw);
    lensnet_model_destroy(model);
    if (system("rm -rf " FOLDER) != 0) printf("note: %s stays\n", FOLDER);
    return test_end();
}
