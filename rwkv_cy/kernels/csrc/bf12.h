/* Packed bfloat16 (bf12): how its bytes lie. Nothing is rounded: unpacking gives the bits that were packed.
 *
 * A chunk holds 128 columns of a row. A weight has 12 bits in it: sign, mantissa, and the place of its exponent in a
 * table of sixteen that the matrix has. A weight of another exponent escapes: its row's list has its column and its
 * bits, and what stands for it in the chunk is not looked at. Four rows make a group, whose chunks lie in turn, so that
 * four sums read one stream.
 *
 *   64 bytes             table: sixteen exponents; u32: escapes in all; zeros
 *   the chunks           [group of four rows][chunk of a row][row of the group], 192 bytes each
 *   4 * (rows + 1)       u32: row r's escapes are those from starts[r] to starts[r + 1]
 *   4 * escapes          u16 column, u16 bits: row by row, in the order of columns
 *   zeros                up to a multiple of 64
 *
 * A chunk is made of 16-bit words, 32 of them in each third. Of 32 columns, those to 15 are the even words of a vector,
 * the others the odd ones, so that a shift and a mask make floats of them, lane by lane. Word p of the first third has
 * signs and mantissas of two columns of that place: those of the first 32 columns where a bfloat16 has them, and those
 * of the second 32 in the bits between, which is where they come to lie if the bytes are swapped. The second third has
 * columns 64 to 127. Word p of the last third has four codes from the low end, one of each 32 columns.
 * docs/file-format.md says the same for readers of files.
 *
 * What lies in a file may be anything. Lists are cut to the matrix's own count of escapes, and a column is patched only
 * where it lies in the chunk at hand: no bytes lead beyond the matrix. */
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

/* Bytes of a group of four rows. */
static inline ptrdiff_t rk_bf12_group(ptrdiff_t cols)
{
    return (cols + RK_BF12_COLS - 1) / RK_BF12_COLS * RK_BF12_CHUNK * RK_BF12_ROWS;
}

/* Offset among the chunks of that with `row` and column k. */
static inline ptrdiff_t rk_bf12_at(ptrdiff_t cols, ptrdiff_t row, ptrdiff_t k)
{
    return row / RK_BF12_ROWS * rk_bf12_group(cols) +
           (k / RK_BF12_COLS * RK_BF12_ROWS + row % RK_BF12_ROWS) * RK_BF12_CHUNK;
}

static inline const uint8_t *rk_bf12_chunk(const rk_matrix *m, ptrdiff_t row, ptrdiff_t k)
{
    return (const uint8_t *)m->data + RK_BF12_HEAD + rk_bf12_at(m->cols, row, k);
}

/* The lists of a matrix. */
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

/* Where the escapes of `row` begin; those of the row before it end there. */
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
