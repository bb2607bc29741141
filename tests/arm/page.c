/* A process that believes the kernel's pages are larger:
   gcc -shared -fPIC -o page.so page.c -ldl; PAGE_BYTES=16384 LD_PRELOAD=./page.so ... */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
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
