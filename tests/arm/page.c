/* A process that believes the kernel's pages are larger:
   gcc -shared -fPIC -o page.so page.c -ldl; PAGE_BYTES=16384 LD_PRELOAD=./page.so ...
   Maps begin where such a kernel would begin them: who rounds an address down to a page before he
   unmaps it (the schema loader of pycapnp) takes nothing of his neighbour's. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static long wanted(void) {
    const char *text = getenv("PAGE_BYTES");
    return text ? atol(text) : 16384;
}

long sysconf(int name) {
    static long (*real)(int);
    if (name == _SC_PAGESIZE) return wanted();
    if (!real) real = (long (*)(int))dlsym(RTLD_NEXT, "sysconf");
    return real(name);
}

int getpagesize(void) { return (int)wanted(); }

static void *map(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    return (void *)syscall(SYS_mmap, at, size, protection, flags, fd, offset);
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    size_t page = (size_t)wanted();
    if (offset % page || ((flags & MAP_FIXED) && (uintptr_t)at % page)) {
        errno = EINVAL;
        return MAP_FAILED;
    }
    if (at || !size) return map(at, size, protection, flags, fd, offset);
    size_t whole = (size + page - 1) / page * page + page;
    char *room = map(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) return room;
    char *begin = (char *)(((uintptr_t)room + page - 1) / page * page);
    char *end = begin + (size + 4095) / 4096 * 4096;
    void *found = map(begin, size, protection, flags | MAP_FIXED, fd, offset);
    if (found == MAP_FAILED) {
        int error = errno;
        munmap(room, whole);
        errno = error;
        return found;
    }
    if (begin > room) munmap(room, begin - room);
    if (room + whole > end) munmap(end, room + whole - end);
    return found;
}

void *mmap64(void *, size_t, int, int, int, off_t) __attribute__((alias("mmap")));
