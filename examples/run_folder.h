/* run_folder.h - the folder of a training run: one run in it at a time, and two generations of its
 * state, so that a damaged one is noticed and the one before it used. Include system.h, lensnet.h and
 * dataset.h first.
 *
 * The lock is the kernel's (flock): it goes with the process, however that ends, so a killed run's folder
 * is free at once. On network file systems it holds between machines where the server keeps locks (NFS
 * does, by default); where there are none the run says so and goes on without. On Windows whoever has the
 * lock's file open holds it. */
#ifndef RUN_FOLDER_H
#define RUN_FOLDER_H

#ifdef _WIN32
#include <share.h>
#else
#include <sys/file.h>
#endif

typedef struct run_folder {
    char *lock_path;       /* FOLDER/lock; names the process that holds it */
    int lock;              /* its descriptor, 0 while it is not held */
    char *last, *previous; /* the state, and the one before it */
    char *between;         /* what is to become the one before it */
    int last_damaged;      /* the older one was used: it must outlive the next save */
} run_folder;

SYSTEM_API int run_folder_name(run_folder *f, const char *folder, lensnet_error *error)
{
    memset(f, 0, sizeof *f);
    f->lock_path = system_path(folder, "lock");
    f->last = system_path(folder, "last.safetensors");
    f->previous = system_path(folder, "last.previous.safetensors");
    f->between = system_path(folder, "last.previous.safetensors.tmp-0");
    return (f->lock_path && f->last && f->previous && f->between) || dataset_no_memory(error);
}

/* ---- one run at a time --------------------------------------------------------------------------- */

/* Who holds the lock, as he wrote it there. `text` has room for 200 characters. */
static const char *run_folder_owner(char *text, int descriptor)
{
    ssize_t length = read(descriptor, text, 199);
    text[length > 0 ? length : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    return *text ? text : "another process";
}

static void run_folder_sign(int descriptor)
{
    char host[100] = "this machine", text[200];
#ifndef _WIN32
    gethostname(host, sizeof host - 1);
#endif
    snprintf(text, sizeof text, "process %ld on %s\n", (long)getpid(), host);
    if (ftruncate(descriptor, 0) != 0 || write(descriptor, text, strlen(text)) < 0)
        return; /* a lock without a name holds as well */
}

/* Opens the lock's file, -1 if it cannot be; *taken is 0 if it is ours now, else errno says why not. */
static int run_folder_open_lock(const char *path, int *taken)
{
#ifdef _WIN32
    const int descriptor = _sopen(path, O_RDWR | O_CREAT, _SH_DENYRW, S_IREAD | S_IWRITE);
    *taken = 0;
    return descriptor;
#else
    const int descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
    *taken = descriptor >= 0 ? flock(descriptor, LOCK_EX | LOCK_NB) : -1;
    return descriptor;
#endif
}

/* 1 if the lock's file still stands under its name: its last owner may have removed it meanwhile. Windows
 * removes no file that is open, and its fstat and stat do not agree. */
static int run_folder_named(const run_folder *f, int descriptor)
{
#ifdef _WIN32
    (void)f;
    return descriptor >= 0;
#else
    struct stat opened, named;
    return fstat(descriptor, &opened) == 0 && stat(f->lock_path, &named) == 0 &&
           opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
#endif
}

/* Takes the lock; a folder in which another run is under way is an error. */
SYSTEM_API int run_folder_lock(run_folder *f, lensnet_error *error)
{
    char owner[200];
    while (!f->lock) {
        int taken;
        const int descriptor = run_folder_open_lock(f->lock_path, &taken);
        if (descriptor < 0)
            return dataset_fail(error, "%s: the lock cannot be made: %s; choose another --out",
                                f->lock_path, strerror(errno));
        if (taken != 0 && errno == EWOULDBLOCK) {
            dataset_fail(error,
                         "%s: a run is under way there (%s); wait for it, or choose another --out",
                         f->lock_path, run_folder_owner(owner, descriptor));
            close(descriptor);
            return 0;
        }
        if (taken != 0)
            fprintf(stderr, "warning: %s: no locks there (%s): see that no other run uses it\n",
                    f->lock_path, strerror(errno));
        if (run_folder_named(f, descriptor)) {
            run_folder_sign(descriptor);
            f->lock = descriptor;
        } else {
            close(descriptor);
        }
    }
    return 1;
}

/* Gives up the lock and what belongs to `f`. */
SYSTEM_API void run_folder_release(run_folder *f)
{
    if (f->lock) {
#ifdef _WIN32
        close(f->lock); /* what is open cannot be removed there */
        unlink(f->lock_path);
#else
        unlink(f->lock_path);
        close(f->lock);
#endif
    }
    free(f->lock_path);
    free(f->last);
    free(f->previous);
    free(f->between);
    memset(f, 0, sizeof *f);
}

/* ---- what killed runs left ----------------------------------------------------------------------- */

/* "NAME.tmp-12" */
static int run_folder_is_temporary(const char *name)
{
    const char *ending = strstr(name, ".tmp-");
    return ending && ending[5] && ending[5 + strspn(ending + 5, "0123456789")] == 0;
}

/* Removes a temporary file unless a process holds it. */
static void run_folder_remove(const char *path)
{
#ifdef _WIN32
    unlink(path); /* what is open cannot be removed there */
#else
    int file = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
    if (file < 0) return;
    if (flock(file, LOCK_EX | LOCK_NB) == 0) unlink(path);
    close(file);
#endif
}

/* Removes the temporary files that no process holds. */
SYSTEM_API void run_folder_clean(const char *folder)
{
    system_names names;
    size_t i;
    if (!system_list(&names, folder)) return;
    for (i = 0; i < names.count; i++) {
        char *path =
            run_folder_is_temporary(names.items[i]) ? system_path(folder, names.items[i]) : NULL;
        if (path) run_folder_remove(path);
        free(path);
    }
    system_names_free(&names);
}

/* ---- two generations of the state ---------------------------------------------------------------- */

/* Before a new state is saved as `last`: the old one is kept as `previous` too. One of them is whole at
 * every moment. */
SYSTEM_API int run_folder_keep(run_folder *f, lensnet_error *error)
{
    int good;
    if (f->last_damaged || !system_exists(f->last)) {
        f->last_damaged = 0;
        return 1;
    }
#ifdef _WIN32
    unlink(f->previous); /* rename() replaces nothing there */
    good = rename(f->last, f->previous) == 0;
#else
    unlink(f->between);
    good = link(f->last, f->between) == 0 ? rename(f->between, f->previous) == 0
                                          : rename(f->last, f->previous) == 0;
#endif
    unlink(f->between); /* renaming a link to the file it already names does nothing (POSIX) */
    return good || dataset_fail(error, "%s: the state before it cannot be kept: %s", f->previous,
                                strerror(errno));
}

SYSTEM_API int run_folder_has_state(const run_folder *f)
{
    return system_exists(f->last) || system_exists(f->previous);
}

/* Reads every tensor, which checks its checksum. */
static lensnet_result run_folder_check(const lensnet_archive *state, lensnet_error *error)
{
    lensnet_result result = LENSNET_OK;
    size_t i;
    for (i = 0; i < lensnet_archive_count(state) && !result; i++) {
        const lensnet_archive_entry *entry = lensnet_archive_at(state, i);
        void *bytes = malloc((size_t)entry->bytes + 1);
        if (!bytes) {
            dataset_no_memory(error);
            return error->code = LENSNET_ERROR_MEMORY;
        }
        result = lensnet_archive_read_bytes(bytes, state, entry, error);
        free(bytes);
    }
    return result;
}

/* Opens a state if all of it is whole. */
static lensnet_result run_folder_open(lensnet_archive **state, const char *path,
                                      const lensnet_host *host, lensnet_error *error)
{
    lensnet_result result = lensnet_archive_open(state, path, host, error);
    if (result) return result;
    result = run_folder_check(*state, error);
    if (result) {
        lensnet_archive_close(*state);
        *state = NULL;
    }
    return result;
}

/* Opens the newest state that is whole: `last`, or with a word the one before it. *path is then where it
 * stands, for as long as `f` lives. */
SYSTEM_API int run_folder_open_state(lensnet_archive **state, const char **path, run_folder *f,
                                     const lensnet_host *host, lensnet_error *error)
{
    lensnet_error older;
    lensnet_result result;
    *path = f->last;
    *state = NULL;
    if (!run_folder_has_state(f))
        return dataset_fail(
            error, "there is no %s, so no run to go on with; --out names the folder of one",
            f->last);
    result = run_folder_open(state, f->last, host, error);
    if (!result) return 1;
    if (result == LENSNET_ERROR_MEMORY || !system_exists(f->previous) ||
        run_folder_open(state, f->previous, host, &older))
        return 0;
    fprintf(stderr, "warning: %s. Going on from the state before it, %s.\n", error->text,
            f->previous);
    f->last_damaged = 1;
    *path = f->previous;
    return 1;
}

#endif
