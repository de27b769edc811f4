/* test_host.c - the default hooks: what a save replaces and what it keeps, what is refused before it is
 * read, what a killed process leaves, why something failed, and an allocator that breaks its contract.
 * POSIX. cc -O2 -fopenmp -I. tests/test_host.c -o build/test_host -lm */
#define _GNU_SOURCE /* flock, mknod, symlink */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "tests/test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define FOLDER "build/test_host.d/"
#define SAVED  FOLDER "saved.safetensors"

static lensnet_error error;

static void in_folder(const char *command)
{
    char line[600];
    snprintf(line, sizeof line, "rm -rf %s && mkdir -p %s && cd %s && %s", FOLDER, FOLDER, FOLDER,
             command);
    if (system(line) != 0) test_give_up("cannot make the test's folder", line, __FILE__, __LINE__);
}

static int exists(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

static mode_t mode_of(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0 ? info.st_mode : 0;
}

/* How many names begin with "saved.safetensors.tmp-" */
static int temporaries(void)
{
    char path[200];
    int i, count = 0;
    for (i = 0; i < 200; i++) {
        snprintf(path, sizeof path, "%s.tmp-%d", SAVED, i);
        count += exists(path);
    }
    return count;
}

static lensnet_result save_as(const char *path, float value)
{
    lensnet_archive_tensor tensor;
    memset(&tensor, 0, sizeof tensor);
    memset(&error, 0, sizeof error);
    tensor.name = "value";
    tensor.dtype = LENSNET_DTYPE_F32;
    tensor.values = &value;
    return lensnet_archive_save(path, &tensor, 1, NULL, 0, NULL, &error);
}

static float saved_in(const char *path)
{
    lensnet_archive *archive;
    float value = -1;
    if (lensnet_archive_open(&archive, path, NULL, &error)) return -1;
    if (lensnet_archive_read_float(&value, archive, lensnet_archive_find(archive, "value"), &error))
        value = -1;
    lensnet_archive_close(archive);
    return value;
}

/* ---- what a save keeps --------------------------------------------------------------------------- */

static void test_mode(void)
{
    struct stat info;
    in_folder("touch other");
    CHECK(!save_as(SAVED, 1) && (mode_of(SAVED) & 0777) == (mode_of(FOLDER "other") & 0777));
    CHECK(chmod(SAVED, 0640) == 0 && !save_as(SAVED, 2) && (mode_of(SAVED) & 07777) == 0640);
    if (geteuid() == 0) {
        CHECK(chown(SAVED, 12345, 54321) == 0 && !save_as(SAVED, 3) && stat(SAVED, &info) == 0);
        CHECK(info.st_uid == 12345 && info.st_gid == 54321 && (info.st_mode & 07777) == 0640);
    } else {
        CHECK(chmod(SAVED, 0440) == 0 && save_as(SAVED, 3) == LENSNET_ERROR_FILE);
        CHECK(strstr(error.text, strerror(EACCES)) != NULL && saved_in(SAVED) == 2);
    }
}

static void test_links(void)
{
    in_folder("mkdir far && ln -s far/real.safetensors saved.safetensors && ln -s nowhere loose && "
              "ln -s loop loop && touch mine && ln -s mine plain.tmp-0");
    CHECK(!save_as(FOLDER "far/real.safetensors", 1) && !save_as(SAVED, 2));
    CHECK(S_ISLNK(mode_of(SAVED)) && saved_in(FOLDER "far/real.safetensors") == 2);
    CHECK(save_as(FOLDER "loose", 1) == LENSNET_ERROR_FILE && !exists(FOLDER "nowhere"));
    CHECK(strstr(error.text, strerror(ENOENT)) != NULL);
    CHECK(save_as(FOLDER "loop", 1) == LENSNET_ERROR_FILE);
    CHECK(strstr(error.text, strerror(ELOOP)) != NULL);
    /* a link under a temporary file's name is neither followed nor removed */
    CHECK(!save_as(FOLDER "plain", 3) && saved_in(FOLDER "plain") == 3);
    CHECK(S_ISLNK(mode_of(FOLDER "plain.tmp-0")) && !exists(FOLDER "plain.tmp-1"));
}

/* ---- what is refused ----------------------------------------------------------------------------- */

/* Neither read, which may wait for ever, nor replaced. */
static void check_refused(const char *path, const char *words)
{
    lensnet_archive *archive;
    lensnet_classifier *classifier;
    const mode_t mode = mode_of(path);
    test_check(lensnet_archive_open(&archive, path, NULL, &error) == LENSNET_ERROR_FILE &&
                   strstr(error.text, words) && strstr(error.text, path),
               words, "read: ", __LINE__);
    test_check(lensnet_classifier_load(&classifier, path, NULL, &error) == LENSNET_ERROR_FILE,
               words, "classify: ", __LINE__);
    test_check(save_as(path, 1) == LENSNET_ERROR_FILE && strstr(error.text, words) &&
                   strstr(error.text, path),
               words, "save: ", __LINE__);
    test_check(mode_of(path) == mode, words, "stays: ", __LINE__);
}

static void test_special_files(void)
{
    struct sockaddr_un address;
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    in_folder("mkfifo pipe && mkdir folder && ln -s pipe link");
    alarm(60); /* a test that waits for ever ends the program */
    check_refused(FOLDER "pipe", "it is a pipe");
    check_refused(FOLDER "link", "it is a pipe");
    check_refused(FOLDER "folder", "it is a folder");
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, FOLDER "socket");
    if (s >= 0 && bind(s, (struct sockaddr *)&address, sizeof address) == 0) {
        lensnet_archive *archive;
        CHECK(save_as(FOLDER "socket", 1) == LENSNET_ERROR_FILE &&
              S_ISSOCK(mode_of(FOLDER "socket")));
        CHECK(lensnet_archive_open(&archive, FOLDER "socket", NULL, &error) == LENSNET_ERROR_FILE);
    }
    if (s >= 0) close(s);
    /* a device of its own: this machine's are not put at risk */
    if (mknod(FOLDER "device", S_IFCHR | 0666, (dev_t)(1 << 8 | 3)) == 0)
        check_refused(FOLDER "device", "it is a device");
    else
        printf("note: no device could be made here, so none was tried\n");
    CHECK(!exists(FOLDER "pipe.tmp-0") && !exists(FOLDER "device.tmp-0"));
    alarm(0);
}

static void test_reasons(void)
{
    struct rlimit before, small;
    char name[400];
    static float many[10000];
    lensnet_archive_tensor tensor;
    in_folder("true");
    memset(name, 'a', sizeof name);
    memcpy(name, FOLDER, strlen(FOLDER));
    name[sizeof name - 1] = 0;
    CHECK(save_as(name, 1) == LENSNET_ERROR_FILE);
    CHECK(strstr(error.text, strerror(ENAMETOOLONG)) != NULL);
    CHECK(save_as(FOLDER "none/x", 1) == LENSNET_ERROR_FILE);
    CHECK(strstr(error.text, strerror(ENOENT)) != NULL);
    CHECK(!save_as(SAVED, 1) && save_as(SAVED "/x", 1) == LENSNET_ERROR_FILE);
    CHECK(strstr(error.text, strerror(ENOTDIR)) != NULL);
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 20000;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    memset(&tensor, 0, sizeof tensor);
    tensor.name = "many";
    tensor.dtype = LENSNET_DTYPE_F32;
    tensor.rank = 1;
    tensor.shape[0] = 10000;
    tensor.values = many;
    CHECK(lensnet_archive_save(SAVED, &tensor, 1, NULL, 0, NULL, &error) == LENSNET_ERROR_FILE);
    setrlimit(RLIMIT_FSIZE, &before);
    CHECK(strstr(error.text, strerror(EFBIG)) != NULL && saved_in(SAVED) == 1);
    CHECK(temporaries() == 0);
}

/* ---- temporary files ----------------------------------------------------------------------------- */

/* What killed processes left goes, be it more than there are names to try; what one writes stays. */
static void test_leftovers(void)
{
    int held;
    in_folder("for i in $(seq 0 99); do echo x >saved.safetensors.tmp-$i; done");
    held = open(SAVED ".tmp-0", O_RDWR);
    CHECK(held >= 0 && flock(held, LOCK_EX) == 0);
    CHECK(temporaries() == 100 && !save_as(SAVED, 1) && saved_in(SAVED) == 1);
    CHECK(temporaries() == 1 && exists(SAVED ".tmp-0"));
    close(held);
    CHECK(!save_as(SAVED, 2) && temporaries() == 0);
}

static void test_all_held(void)
{
    static int held[100];
    char path[200];
    int i;
    in_folder("true");
    for (i = 0; i < 100; i++) {
        snprintf(path, sizeof path, "%s.tmp-%d", SAVED, i);
        held[i] = open(path, O_RDWR | O_CREAT, 0666);
        CHECK(held[i] >= 0 && flock(held[i], LOCK_EX) == 0);
    }
    CHECK(save_as(SAVED, 1) == LENSNET_ERROR_FILE && temporaries() == 100);
    CHECK(strstr(error.text, "temporary file") != NULL);
    for (i = 0; i < 100; i++) close(held[i]);
}

/* kill -9 in the middle of a save. */
static void test_killed(void)
{
    lensnet_host host = lensnet_host_defaults();
    pid_t child;
    int status = 0;
    in_folder("true");
    CHECK(!save_as(SAVED, 1));
    child = fork();
    if (child == 0) {
        void *file = host.file_open(SAVED, 1, host.user);
        if (!file || host.file_write(file, "half", 4, host.user)) _exit(1);
        raise(SIGKILL);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    CHECK(temporaries() == 1 && saved_in(SAVED) == 1);
    CHECK(!save_as(SAVED, 2) && temporaries() == 0 && saved_in(SAVED) == 2);
}

/* Two writers at once: each whole, the later one stays. */
static void test_two_writers(void)
{
    lensnet_host host = lensnet_host_defaults();
    void *first, *second;
    char text[8] = "";
    FILE *file;
    in_folder("true");
    first = host.file_open(SAVED, 1, host.user);
    second = host.file_open(SAVED, 1, host.user);
    CHECK(first && second && temporaries() == 2);
    if (!first || !second) return;
    CHECK(!host.file_write(first, "first", 5, host.user));
    CHECK(!host.file_write(second, "second", 6, host.user));
    CHECK(!host.file_close(second, 1, host.user) && !host.file_close(first, 1, host.user));
    file = fopen(SAVED, "rb");
    CHECK(file && fread(text, 1, sizeof text, file) == 5 && memcmp(text, "first", 5) == 0);
    if (file) fclose(file);
    CHECK(temporaries() == 0);
    first = host.file_open(SAVED, 1, host.user);
    CHECK(first && !host.file_close(first, 0, host.user) && temporaries() == 0);
}

/* ---- memory -------------------------------------------------------------------------------------- */

typedef struct crooked {
    lensnet_host inner;
    long crooked_from, calls, live; /* from this call on, blocks are off their alignment */
} crooked;

static void *crooked_allocate(size_t bytes, size_t alignment, void *user)
{
    crooked *c = (crooked *)user;
    unsigned char *block = (unsigned char *)c->inner.allocate(bytes + 64, alignment, NULL);
    if (!block) return NULL;
    c->live++;
    c->calls++;
    return c->calls >= c->crooked_from ? block + 8 : block;
}

static void crooked_release(void *block, size_t bytes, void *user)
{
    crooked *c = (crooked *)user;
    unsigned char *bytes_of = (unsigned char *)block;
    c->live--;
    c->inner.release(bytes_of - (uintptr_t)block % 64, bytes + 64, NULL);
}

/* Blocks off their alignment are an error, at every allocation, and are given back. */
static void test_alignment(void)
{
    crooked c;
    lensnet_host host = lensnet_host_defaults();
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_model *model;
    long at;
    int i, good = 0;
    c.inner = host;
    host.allocate = crooked_allocate;
    host.release = crooked_release;
    host.user = &c;
    for (i = 0; i < 4; i++) desc.depths[i] = 1, desc.widths[i] = 8;
    desc.host = &host;
    for (at = 1; at < 1000 && !good; at++) {
        lensnet_result result;
        c.crooked_from = at;
        c.calls = c.live = 0;
        result = lensnet_model_create(&model, &desc, &error);
        good = !result;
        CHECK(good || (result == LENSNET_ERROR_MEMORY && !model));
        if (good) lensnet_model_destroy(model);
        CHECK(c.live == 0);
    }
    CHECK(good && at > 3);
}

int main(void)
{
    test_mode();
    test_links();
    test_special_files();
    test_reasons();
    test_leftovers();
    test_all_held();
    test_killed();
    test_two_writers();
    test_alignment();
    in_folder("true");
    return test_end();
}
