/* sha256.h - the SHA-256 of bytes (FIPS 180-4), by which sha256sum and model cards name a file.
 * Include system.h first. */
#ifndef SHA256_H
#define SHA256_H

#include <stdint.h>
#include <string.h>

/* The first 32 bits of the fractional parts of the cube roots of the first 64 primes. */
static const uint32_t sha256_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/* The same of the square roots of the first 8. */
static const uint32_t sha256_start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

static uint32_t sha256_turn(uint32_t x, int n) { return x >> n | x << (32 - n); }

/* The 64 words that a block of 64 bytes is drawn out to. */
static void sha256_words(uint32_t *w, const unsigned char *block)
{
    int t;
    for (t = 0; t < 16; t++)
        w[t] = (uint32_t)block[4 * t] << 24 | (uint32_t)block[4 * t + 1] << 16 |
               (uint32_t)block[4 * t + 2] << 8 | block[4 * t + 3];
    for (; t < 64; t++) {
        const uint32_t a = w[t - 15], b = w[t - 2];
        w[t] = w[t - 16] + (sha256_turn(a, 7) ^ sha256_turn(a, 18) ^ a >> 3) + w[t - 7] +
               (sha256_turn(b, 17) ^ sha256_turn(b, 19) ^ b >> 10);
    }
}

static void sha256_block(uint32_t *h, const unsigned char *block)
{
    uint32_t w[64], v[8];
    int t;
    sha256_words(w, block);
    memcpy(v, h, sizeof v);
    for (t = 0; t < 64; t++) {
        const uint32_t a = v[0], e = v[4];
        const uint32_t first = v[7] +
                               (sha256_turn(e, 6) ^ sha256_turn(e, 11) ^ sha256_turn(e, 25)) +
                               ((e & v[5]) ^ (~e & v[6])) + sha256_constants[t] + w[t];
        const uint32_t second = (sha256_turn(a, 2) ^ sha256_turn(a, 13) ^ sha256_turn(a, 22)) +
                                ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += first;
        v[0] = first + second;
    }
    for (t = 0; t < 8; t++) h[t] += v[t];
}

/* As 64 digits and an end. */
SYSTEM_API void sha256_text(char *text, const void *bytes, size_t count)
{
    const unsigned char *from = (const unsigned char *)bytes;
    unsigned char last[128] = {0};
    uint32_t h[8];
    const size_t left = count % 64, padded = left < 56 ? 64 : 128;
    size_t i;
    memcpy(h, sha256_start, sizeof h);
    for (i = 0; i + 64 <= count; i += 64) sha256_block(h, from + i);
    if (left) memcpy(last, from + i, left);
    last[left] = 0x80;
    for (i = 0; i < 8; i++)
        last[padded - 1 - i] = (unsigned char)((uint64_t)count * 8 >> 8 * i & 0xff);
    for (i = 0; i < padded; i += 64) sha256_block(h, last + i);
    for (i = 0; i < 8; i++) snprintf(text + 8 * i, 9, "%08lx", (unsigned long)h[i]);
}

#endif
