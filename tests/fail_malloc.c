/* fail_malloc.c - a library to be preloaded: the FAIL_AT-th allocation that the program itself asks for
 * fails, with FAIL_LATER=1 all later ones too; the file FAIL_MARK is then made. What libraries ask for
 * (stdio, OpenMP) is let alone: they are not what is tested. glibc.
 * cc -O1 -shared -fPIC tests/fail_malloc.c -o build/fail_malloc.so */
#define _GNU_SOURCE
#include <fcntl.h>
#include <link.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *block, size_t size);

static uintptr_t low, high; /* where the program's code lies */
static long fail_at, calls;
static int fail_later;

/* The first object is the program. */
static int find_program(struct dl_phdr_info *info, size_t size, void *user)
{
    int i;
    (void)size;
    (void)user;
    for (i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
        low = info->dlpi_addr + part->p_vaddr;
        high = low + part->p_memsz;
    }
    return 1;
}

__attribute__((constructor)) static void begin(void)
{
    const char *at = getenv("FAIL_AT");
    dl_iterate_phdr(find_program, NULL);
    fail_at = at ? atol(at) : 0;
    fail_later = getenv("FAIL_LATER") != NULL;
}

static int fails(const void *caller)
{
    const uintptr_t at = (uintptr_t)caller;
    long call;
    if (!fail_at || at < low || at >= high) return 0;
    call = __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    if (call != fail_at && !(fail_later && call > fail_at)) return 0;
    if (call == fail_at) {
        const char *mark = getenv("FAIL_MARK");
        int file = mark ? open(mark, O_CREAT | O_WRONLY, 0666) : -1;
        if (file >= 0) close(file);
    }
    return 1;
}

void *malloc(size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *block, size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(block, size);
}
