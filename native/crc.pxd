"""CRC-32C (Castagnoli, RFC 3720 appendix B.4), inline: the checksum of records and blocks.

`crc32c(seed, data, size)` continues from `seed`; 0 starts. The processor's own instruction is used
where it is found at run time (x86-64: SSE 4.2, ARMv8: CRC), else a table of 8 x 256 entries.
"""

from libc.stdint cimport uint32_t

cdef extern from *:
    """
    #ifndef EDGESYNC_CRC_H
    #define EDGESYNC_CRC_H
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>
    #if defined(__x86_64__)
    #include <nmmintrin.h>
    #elif defined(__aarch64__) && defined(__linux__)
    #include <sys/auxv.h>
    #ifndef HWCAP_CRC32
    #define HWCAP_CRC32 (1 << 7)
    #endif
    #endif

    static uint32_t edgesync_crc_table[8][256];

    /* Filled when the module is loaded: afterwards it is only read, by any thread. */
    __attribute__((constructor)) static void edgesync_crc_fill(void) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int k = 0; k < 8; k++) c = (c >> 1) ^ (0x82F63B78u & (0u - (c & 1u)));
            edgesync_crc_table[0][i] = c;
        }
        for (uint32_t i = 0; i < 256; i++)
            for (int k = 1; k < 8; k++) {
                uint32_t c = edgesync_crc_table[k - 1][i];
                edgesync_crc_table[k][i] = edgesync_crc_table[0][c & 0xFF] ^ (c >> 8);
            }
    }

    static inline uint32_t edgesync_crc_byte(uint32_t c, unsigned char b) {
        return edgesync_crc_table[0][(c ^ b) & 0xFF] ^ (c >> 8);
    }

    static inline uint32_t edgesync_crc_soft(uint32_t c, const unsigned char *p, size_t n) {
        for (; n >= 8; n -= 8, p += 8) {
            uint32_t a = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16
                | (uint32_t)p[3] << 24;
            a ^= c;
            c = edgesync_crc_table[7][a & 0xFF] ^ edgesync_crc_table[6][(a >> 8) & 0xFF]
              ^ edgesync_crc_table[5][(a >> 16) & 0xFF] ^ edgesync_crc_table[4][a >> 24]
              ^ edgesync_crc_table[3][p[4]] ^ edgesync_crc_table[2][p[5]]
              ^ edgesync_crc_table[1][p[6]] ^ edgesync_crc_table[0][p[7]];
        }
        while (n--) c = edgesync_crc_byte(c, *p++);
        return c;
    }

    #if defined(__x86_64__)
    __attribute__((target("sse4.2")))
    static uint32_t edgesync_crc_hard(uint32_t c, const unsigned char *p, size_t n) {
        uint64_t wide = c, word;
        for (; n >= 8; n -= 8, p += 8) {
            memcpy(&word, p, 8);
            wide = _mm_crc32_u64(wide, word);
        }
        c = (uint32_t)wide;
        while (n--) c = _mm_crc32_u8(c, *p++);
        return c;
    }
    #define EDGESYNC_CRC_HARD __builtin_cpu_supports("sse4.2")
    #elif defined(__aarch64__) && defined(__linux__)
    /* In this function alone, and asked for at run time: some ARMv8.0 have no such instruction.
       Written out, for <arm_acle.h> offers it only where the whole file may use it. */
    __attribute__((target("+crc")))
    static uint32_t edgesync_crc_hard(uint32_t c, const unsigned char *p, size_t n) {
        uint64_t word;
        for (; n >= 8; n -= 8, p += 8) {
            memcpy(&word, p, 8);
            __asm__("crc32cx %w0, %w0, %x1" : "+r"(c) : "r"(word));
        }
        while (n--) {
            uint32_t b = *p++;
            __asm__("crc32cb %w0, %w0, %w1" : "+r"(c) : "r"(b));
        }
        return c;
    }

    static int edgesync_crc_is_there;

    __attribute__((constructor)) static void edgesync_crc_look(void) {
        edgesync_crc_is_there = (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
    }
    #define EDGESYNC_CRC_HARD edgesync_crc_is_there
    #else
    #define edgesync_crc_hard edgesync_crc_soft
    #define EDGESYNC_CRC_HARD 0
    #endif

    static inline uint32_t edgesync_crc32c(uint32_t seed, const void *data, size_t size) {
        const unsigned char *p = (const unsigned char *)data;
        uint32_t c = ~seed;
        c = EDGESYNC_CRC_HARD ? edgesync_crc_hard(c, p, size) : edgesync_crc_soft(c, p, size);
        return ~c;
    }
    #endif
    """
    uint32_t crc32c "edgesync_crc32c"(uint32_t seed, const void *data, size_t size) noexcept nogil
