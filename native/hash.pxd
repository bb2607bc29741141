"""The running hash of a lane: compares two histories at one position (R4), inline.

Not against an attacker: the link is authenticated. It tells "the same records" from "others" after
a restore or a copy. All loads are little-endian; tests/native/rowsmith.py holds the same in
Python.

    fold(a, b)          low xor high half of the 128-bit product
    hash64(data, seed)  h = seed ^ size*K0; each 16 bytes (a, b), the rest zero-padded as a last
                        one: h = fold(a ^ K1, b ^ h); the result is fold(h ^ K0, K2)
    hash_record         hash64(body, fold(origin ^ K1, number ^ K2) ^ kind)
    mix_chain           fold(prev ^ K0, h ^ K1), 1 in place of 0
"""

from libc.stdint cimport uint8_t, uint64_t

cdef extern from *:
    """
    #ifndef EDGESYNC_HASH_H
    #define EDGESYNC_HASH_H
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>
    #define EDGESYNC_K0 0x9E3779B97F4A7C15ull
    #define EDGESYNC_K1 0xD6E8FEB86659FD93ull
    #define EDGESYNC_K2 0xA0761D6478BD642Full

    static inline uint64_t edgesync_fold(uint64_t a, uint64_t b) {
        unsigned __int128 m = (unsigned __int128)a * b;
        return (uint64_t)m ^ (uint64_t)(m >> 64);
    }

    static inline uint64_t edgesync_hash64(const void *data, size_t size, uint64_t seed) {
        const unsigned char *p = (const unsigned char *)data;
        uint64_t h = seed ^ (uint64_t)size * EDGESYNC_K0, w[2];
        for (; size >= 16; size -= 16, p += 16) {
            memcpy(w, p, 16);
            h = edgesync_fold(w[0] ^ EDGESYNC_K1, w[1] ^ h);
        }
        if (size) {
            w[0] = w[1] = 0;
            memcpy(w, p, size);
            h = edgesync_fold(w[0] ^ EDGESYNC_K1, w[1] ^ h);
        }
        return edgesync_fold(h ^ EDGESYNC_K0, EDGESYNC_K2);
    }

    static inline uint64_t edgesync_hash_record(
        uint8_t kind, uint64_t origin, uint64_t number, const void *body, size_t size
    ) {
        uint64_t seed = edgesync_fold(origin ^ EDGESYNC_K1, number ^ EDGESYNC_K2) ^ kind;
        return edgesync_hash64(body, size, seed);
    }

    static inline uint64_t edgesync_mix_chain(uint64_t prev, uint64_t h) {
        uint64_t c = edgesync_fold(prev ^ EDGESYNC_K0, h ^ EDGESYNC_K1);
        return c ? c : 1;
    }
    #endif
    """
    uint64_t hash64 "edgesync_hash64"(
        const void *data, size_t size, uint64_t seed) noexcept nogil
    uint64_t hash_record "edgesync_hash_record"(
        uint8_t kind, uint64_t origin, uint64_t number, const void *body, size_t size
    ) noexcept nogil
    uint64_t mix_chain "edgesync_mix_chain"(uint64_t prev, uint64_t h) noexcept nogil
