/* system.h - what the examples need from the operating system: folders, a clock, signals. POSIX, and
 * Windows as mingw has it.
 * Include it before any other header: it asks for POSIX declarations. */
#ifndef SYSTEM_H
#define SYSTEM_H

#if defined(_WIN32) && !defined(__USE_MINGW_ANSI_STDIO)
#define __USE_MINGW_ANSI_STDIO 1 /* %zu */
#endif

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#ifdef _WIN32
#include <io.h>
#define SYSTEM_MAKE_FOLDER(path) mkdir(path)
#ifndef SIGHUP
#define SIGHUP SIGTERM
#endif
#else
#include <sys/resource.h>
#define SYSTEM_MAKE_FOLDER(path) mkdir(path, 0777)
#endif

#ifdef __GNUC__
#define SYSTEM_API __attribute__((unused)) static
#else
#define SYSTEM_API static
#endif

/* ---- names ---- */

/* Names in byte order, as Python's sorted() gives them. Zero it before first use. */
typedef struct system_names {
    char **items;
    size_t count, capacity;
} system_names;

/* "folder/name" (or `name` where folder is empty) in new memory; NULL without memory. */
SYSTEM_API char *system_path(const char *folder, const char *name)
{
    size_t length = strlen(folder);
    const char *slash = length && folder[length - 1] != '/' ? "/" : "";
    size_t size = length + strlen(name) + 2;
    char *path = (char *)malloc(size);
    if (path) snprintf(path, size, "%s%s%s", folder, slash, name);
    return path;
}

SYSTEM_API char *system_copy(const char *text) { return system_path("", text); }

SYSTEM_API int system_ends_in(const char *name, const char *ending)
{
    size_t length = strlen(name), tail = strlen(ending);
    return length >= tail && strcmp(name + length - tail, ending) == 0;
}

SYSTEM_API void system_names_free(system_names *names)
{
    size_t i;
    for (i = 0; i < names->count; i++) free(names->items[i]);
    free(names->items);
    memset(names, 0, sizeof *names);
}

/* Takes over `name`, which may be NULL for want of memory; 0 then. */
SYSTEM_API int system_names_add(system_names *names, char *name)
{
    if (name && names->count == names->capacity) {
        size_t capacity = names->capacity ? 2 * names->capacity : 16;
        char **items = (char **)realloc(names->items, capacity * sizeof *items);
        if (items) {
            names->items = items;
            names->capacity = capacity;
        }
    }
    if (!name || names->count == names->capacity) {
        free(name);
        return 0;
    }
    names->items[names->count++] = name;
    return 1;
}

static int system_compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* ---- folders ---- */

SYSTEM_API int system_is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

SYSTEM_API int system_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

/* The names in a folder, sorted; those that begin with a dot are left out. 0 if the folder cannot be
 * read (errno says why) or memory is short. */
SYSTEM_API int system_list(system_names *names, const char *folder)
{
    DIR *stream = opendir(folder);
    struct dirent *entry;
    int good = stream != NULL;
    memset(names, 0, sizeof *names);
    while (good && (entry = readdir(stream)) != NULL)
        if (entry->d_name[0] != '.') good = system_names_add(names, system_copy(entry->d_name));
    if (stream) closedir(stream);
    if (!good) {
        system_names_free(names);
        return 0;
    }
    if (names->count) qsort(names->items, names->count, sizeof *names->items, system_compare);
    return 1;
}

static int system_make_one_folder(const char *path)
{
    if (system_is_folder(path) || SYSTEM_MAKE_FOLDER(path) == 0) return 1;
    if (errno == EEXIST) errno = ENOTDIR; /* it does, but as a file */
    return 0;
}

/* Makes a folder, and those above it, unless they exist. 0 on failure, and errno says why. */
SYSTEM_API int system_make_folder(const char *path)
{
    char *part = system_copy(path), *at;
    int good = part != NULL;
    for (at = part; good && *at; at++)
        if (*at == '/' && at != part) {
            *at = 0;
            good = system_make_one_folder(part);
            *at = '/';
        }
    good = good && system_make_one_folder(part);
    free(part);
    return good;
}

/* Tells the system that these files are wanted soon, so that it reads them while we compute. */
SYSTEM_API void system_read_ahead(const char *path)
{
#ifdef POSIX_FADV_WILLNEED
    int file = open(path, O_RDONLY | O_NONBLOCK);
    if (file >= 0) {
        posix_fadvise(file, 0, 0, POSIX_FADV_WILLNEED);
        close(file);
    }
#else
    (void)path;
#endif
}

/* ---- time, memory, the terminal ---- */

/* A clock that only goes forward. */
SYSTEM_API double system_seconds(void)
{
#ifdef _WIN32
    return (double)clock() /
           CLOCKS_PER_SEC; /* there not the processor's time, but since the start */
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
#endif
}

/* The most memory that the process has held so far. */
SYSTEM_API double system_peak_bytes(void)
{
#ifdef _WIN32
    return 0; /* not known */
#else
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
    return (double)usage.ru_maxrss;
#else
    return 1024.0 * (double)usage.ru_maxrss;
#endif
#endif
}

/* The machine's memory; 0 where the system does not say. */
SYSTEM_API double system_memory_bytes(void)
{
#ifdef _SC_PHYS_PAGES
    const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    if (pages > 0 && size > 0) return (double)pages * (double)size;
#endif
    return 0;
}

/* As lensnet.h has it: more than there are processors gain nothing, and OpenMP ends the program where the
 * system refuses one. */
SYSTEM_API int system_threads(int asked)
{
#ifdef _OPENMP
    const int available = omp_get_max_threads(), processors = omp_get_num_procs();
    if (asked > 0) return asked;
    return processors > 0 && processors < available ? processors : available;
#else
    (void)asked;
    return 1;
#endif
}

/* The number of the thread that asks, in its team. */
SYSTEM_API int system_thread(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

SYSTEM_API int system_is_terminal(FILE *file) { return isatty(fileno(file)); }

/* "8 s", "4:05 min" or "1:02:11 h". `text` has room for 24 characters. */
SYSTEM_API const char *system_duration(char *text, double seconds)
{
    double s = seconds < 0 ? 0 : seconds > 3.5e6 ? 3.5e6 : seconds;
    int whole = (int)(s + 0.5);
    if (whole < 60)
        snprintf(text, 24, s < 9.95 ? "%.1f s" : "%.0f s", s);
    else if (whole < 3600)
        snprintf(text, 24, "%d:%02d min", whole / 60, whole % 60);
    else
        snprintf(text, 24, "%d:%02d:%02d h", whole / 3600, whole / 60 % 60, whole % 60);
    return text;
}

/* ---- interruption ---- */

static volatile sig_atomic_t system_interrupted_by, system_has_work;

/* Only what may be called in a signal handler. */
static void system_on_signal(int signal_number)
{
    static const char nothing[] = "error: interrupted; nothing is lost\n";
    static const char saving[] =
        "\ninterrupted: ending as soon as nothing is lost (again: at once)\n";
    const int before = errno;
    const char *words = system_has_work ? saving : nothing;
    if (!system_interrupted_by && write(STDERR_FILENO, words, strlen(words)) < 0)
        errno = before; /* nobody reads it */
    if (!system_has_work) _exit(130);
    /* a lost connection may be told of more than once */
    if (signal_number != SIGHUP) signal(signal_number, SIG_DFL);
    system_interrupted_by = signal_number;
    errno = before;
}

/* From now on Ctrl-C, kill and a lost connection end the program with a sentence and status 130: at once
 * until system_begin_work() is called, then they only make system_interrupted() true, and a second
 * Ctrl-C ends it. A closed pipe and a file beyond the limit are write errors. */
SYSTEM_API void system_catch_interrupts(void)
{
#ifdef _WIN32
    signal(SIGINT, system_on_signal);
    signal(SIGTERM, system_on_signal);
#else
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action, old;
    size_t i;
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    action.sa_handler = system_on_signal;
    for (i = 0; i < sizeof signals / sizeof *signals; i++) {
        /* nohup has the last word */
        if (signals[i] == SIGHUP && sigaction(SIGHUP, NULL, &old) == 0 && old.sa_handler == SIG_IGN)
            continue;
        sigaction(signals[i], &action, NULL);
    }
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
#ifdef SIGXFSZ
    sigaction(SIGXFSZ, &action, NULL);
#endif
#endif
}

/* There is something to lose now. */
SYSTEM_API void system_begin_work(void) { system_has_work = 1; }

SYSTEM_API int system_interrupted(void) { return system_interrupted_by != 0; }

/* Writes what is in the standard output's buffer. NULL, or why it cannot be written (a full disk, a
 * closed pipe), in words; the first reason is given ever after. */
SYSTEM_API const char *system_flush_output(void)
{
    static int why;
    errno = 0;
    if (!why && (fflush(stdout) != 0 || ferror(stdout))) why = errno ? errno : EIO;
    return why ? strerror(why) : NULL;
}

#endif
