/* Layout of compressed bfloat16 (bf12). Compression is lossless: decoding restores the exact bits.
 *
 * A chunk holds 128 columns of a row, 12 bits per weight: sign, mantissa, and the index of the exponent in the matrix's
 * table of sixteen exponents. A weight with any other exponent is an escape: its column and bits are stored in the list
 * of its row, and its entry in the chunk is ignored. Four rows form a group with interleaved chunks, so that four sums
 * read one stream.
 *
 *   64 bytes             table: sixteen exponents; u32: number of escapes; zeros
 *   the chunks           [group of four rows][chunk of a row][row of the group], 192 bytes each
 *   4 * (rows + 1)       u32: row r's escapes are starts[r] to starts[r + 1]
 *   4 * escapes          u16 column, u16 bits: by row, then by column
 *   zeros                up to a multiple of 64
 *
 * A chunk consists of three parts of 32 16-bit words. Of each 32 columns, the first 16 are the even words and the other
 * 16 the odd words, so that a shift and a mask widen them to floats, lane by lane. Word p of the first part has the
 * signs and mantissas of two columns: one of columns 0 to 31, in the bit positions of a bfloat16, and one of columns 32
 * to 63, in the remaining bits, which a byte swap moves to the same positions. The second part has columns 64 to 127.
 * Word p of the last part has four exponent indices, lowest bits first, one for each 32 columns. docs/file-format.md
 * specifies the same layout.
 *
 * Files are untrusted. Lists are clamped to the matrix's number of escapes, and a column is patched only if it is in
 * the current chunk, so that no access leaves the matrix. */
#ifndef RK_BF12_H
#define RK_BF12_H

#include "rk.h"

#define RK_BF12_COLS 128
#define RK_BF12_ROWS 4
#define RK_BF12_CHUNK 192
#define RK_BF12_CODES 128 /* offset of a chunk's codes */
#define RK_BF12_TABLE 16
#define RK_BF12_HEAD 64
#define RK_BF12_OWN 0x807f /* sign and mantissa of a bfloat16 */

typedef struct {
    uint16_t column, bits;
} rk_bf12_escape;

/* Size of a group of four rows in bytes. */
static inline ptrdiff_t rk_bf12_group(ptrdiff_t cols)
{
    return (cols + RK_BF12_COLS - 1) / RK_BF12_COLS * RK_BF12_CHUNK * RK_BF12_ROWS;
}

/* Offset of the chunk with `row` and column k. */
static inline ptrdiff_t rk_bf12_at(ptrdiff_t cols, ptrdiff_t row, ptrdiff_t k)
{
    return row / RK_BF12_ROWS * rk_bf12_group(cols) +
           (k / RK_BF12_COLS * RK_BF12_ROWS + row % RK_BF12_ROWS) * RK_BF12_CHUNK;
}

static inline const uint8_t *rk_bf12_chunk(const rk_matrix *m, ptrdiff_t row, ptrdiff_t k)
{
    return (const uint8_t *)m->data + RK_BF12_HEAD + rk_bf12_at(m->cols, row, k);
}

/* The escape lists of a matrix. */
typedef struct {
    const uint8_t *starts, *escapes;
    ptrdiff_t count;
} rk_bf12_lists;

static inline rk_bf12_lists rk_bf12_lists_of(const rk_matrix *m)
{
    const uint8_t *starts = rk_bf12_chunk(m, (m->rows + RK_BF12_ROWS - 1) / RK_BF12_ROWS * RK_BF12_ROWS, 0);
    rk_bf12_lists lists = {starts, starts + 4 * (m->rows + 1), m->escapes};
    return lists;
}

/* Start of the escapes of `row`, which is the end of those of the previous row. */
static inline ptrdiff_t rk_bf12_start(rk_bf12_lists lists, ptrdiff_t row)
{
    uint32_t start;
    memcpy(&start, lists.starts + 4 * row, sizeof start);
    return (ptrdiff_t)start < lists.count ? (ptrdiff_t)start : lists.count;
}

static inline rk_bf12_escape rk_bf12_get(rk_bf12_lists lists, ptrdiff_t i)
{
    rk_bf12_escape escape;
    memcpy(&escape, lists.escapes + 4 * i, sizeof escape);
    return escape;
}

#endif
