"""The block functions of LZ4; which copy is linked in says `store.versions()`."""

cdef extern from "lz4.h" nogil:
    int LZ4_MAX_INPUT_SIZE
    int LZ4_compressBound(int size)
    int LZ4_compress_default(const char *source, char *target, int size, int capacity)
    int LZ4_compress_fast(
        const char *source, char *target, int size, int capacity, int acceleration)
    int LZ4_decompress_safe(const char *source, char *target, int size, int capacity)
    const char *LZ4_versionString()
