/* Encoding and decoding of bf12 for files. Portable C, so that every CPU writes the same bytes. */
#include "codec/bf12.h"

void rk_bf12_count(const uint16_t *words, ptrdiff_t n, long long *counts)
{
    /* Four tables, so that equal neighbours do not wait for each other's increments. */
    long long own[4][256] = {{0}};
    for (ptrdiff_t i = 0; i < n; i++) own[i & 3][words[i] >> 7 & 255]++;
    for (int e = 0; e < 256; e++) counts[e] += own[0][e] + own[1][e] + own[2][e] + own[3][e];
}

/* The word, within each part of a chunk, of column c of a chunk. */
static ptrdiff_t place(ptrdiff_t c) { return c % 16 * 2 + c / 16 % 2; }

static uint16_t swapped_if(int odd, uint16_t word)
{
    return odd ? (uint16_t)(word << 8 | word >> 8) : word;
}

ptrdiff_t rk_bf12_pack(const uint16_t *words, ptrdiff_t rows, ptrdiff_t cols, const uint8_t *table, uint8_t *chunks,
                       uint16_t *escapes, ptrdiff_t capacity, long long *ends)
{
    int16_t codes[256];
    ptrdiff_t escaped = 0;
    for (int e = 0; e < 256; e++) codes[e] = -1;
    for (int i = 0; i < RK_BF12_TABLE; i++) codes[table[i]] = (int16_t)i;
    memset(chunks, 0, (size_t)rk_bf12_at(cols, (rows + RK_BF12_ROWS - 1) / RK_BF12_ROWS * RK_BF12_ROWS, 0));
    for (ptrdiff_t r = 0; r < rows; r++, words += cols) {
        for (ptrdiff_t k = 0; k < cols; k += RK_BF12_COLS) {
            uint16_t thirds[3][32] = {{0}};
            ptrdiff_t count = cols - k < RK_BF12_COLS ? cols - k : RK_BF12_COLS;
            for (ptrdiff_t c = 0; c < count; c++) {
                uint16_t word = words[k + c];
                int16_t code = codes[word >> 7 & 255];
                ptrdiff_t p = place(c), q = c / 32;
                if (code < 0) {
                    if (escaped < capacity) {
                        escapes[2 * escaped] = (uint16_t)(k + c);
                        escapes[2 * escaped + 1] = word;
                    }
                    escaped++;
                    continue;
                }
                thirds[q / 2][p] |= swapped_if(q % 2, word & RK_BF12_OWN);
                thirds[2][p] |= (uint16_t)(code << 4 * q);
            }
            memcpy(chunks + rk_bf12_at(cols, r, k), thirds, sizeof thirds);
        }
        ends[r] = escaped;
    }
    return escaped;
}

void rk_bf12_unpack(const uint8_t *table, const uint8_t *chunks, ptrdiff_t rows, ptrdiff_t cols, uint16_t *words)
{
    for (ptrdiff_t r = 0; r < rows; r++, words += cols) {
        for (ptrdiff_t k = 0; k < cols; k += RK_BF12_COLS) {
            uint16_t thirds[3][32];
            ptrdiff_t count = cols - k < RK_BF12_COLS ? cols - k : RK_BF12_COLS;
            memcpy(thirds, chunks + rk_bf12_at(cols, r, k), sizeof thirds);
            for (ptrdiff_t c = 0; c < count; c++) {
                ptrdiff_t p = place(c), q = c / 32;
                uint16_t own = swapped_if(q % 2, thirds[q / 2][p]) & RK_BF12_OWN;
                words[k + c] = (uint16_t)(own | table[thirds[2][p] >> 4 * q & 15] << 7);
            }
        }
    }
}
