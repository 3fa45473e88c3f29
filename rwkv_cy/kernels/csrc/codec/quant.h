/* Layout of quantized matrices and of the quantized activations they are multiplied with.
 *
 * Sixteen rows form a group; a group is a sequence of blocks along the columns. A block holds a float16 scale for each
 * of its sixteen rows (for q4 and q6 also a float16 minimum), then the integers: for each four columns, sixteen rows of
 * four integers. So a vector of integers is multiplied with a broadcast of four activations, lanes are rows, and
 * nothing is summed across lanes. Padding rows and columns are zeros with scale 0. docs/file-format.md specifies the
 * same layout.
 *
 *   q8: w = q * scale, q from -127 to 127, blocks of 32 columns: 32 + 512 bytes for 512 weights
 *   q4: w = q * scale + minimum, q from 0 to 15, blocks of 64 columns: 64 + 512 bytes for 1,024 weights;
 *       the low half of a byte is one of four columns, the high half one of the next four
 *   q6: w = q * scale + minimum, q from 0 to 63, blocks of 64 columns: the lower four bits as in q4, then 256 bytes
 *       with the upper two bits, 64 bytes for each sixteen columns: a byte has, lowest bits first, a column of the first,
 *       second, third and last four
 *   q4n: w = (level[q] - zero) * scale / 256, q from 0 to 15, blocks of 32 columns: 32 + 256 bytes for 512 weights; for
 *       each row a word of the scale, a float16 of five bits of mantissa without its sign, and below it zero, six bits;
 *       then integers as in q4. A block equals one of q8, of integers level[q] - zero
 */
#ifndef RK_QUANT_H
#define RK_QUANT_H

#include "rk.h"

#define RK_Q_ROWS 16
#define RK_Q8_COLS 32
#define RK_AFFINE_COLS 64
#define RK_Q8_BYTES (2 * RK_Q_ROWS + RK_Q_ROWS * RK_Q8_COLS)
#define RK_Q4_BYTES (4 * RK_Q_ROWS + RK_Q_ROWS * RK_AFFINE_COLS / 2)
#define RK_Q4N_BYTES (2 * RK_Q_ROWS + RK_Q_ROWS * RK_Q8_COLS / 2)
#define RK_Q6_BYTES (RK_Q4_BYTES + RK_Q_ROWS * RK_AFFINE_COLS / 4)

/* Whether rows have a minimum, and blocks have 64 columns. */
static inline int rk_q_affine(int dtype) { return dtype == RK_Q4 || dtype == RK_Q6; }

/* Whether integers are unsigned and packed in half bytes. */
static inline int rk_q_halves(int dtype) { return rk_q_affine(dtype) || dtype == RK_Q4N; }

static inline int rk_q_quantized(int dtype) { return rk_q_halves(dtype) || dtype == RK_Q8; }

static inline ptrdiff_t rk_q_cols(int dtype) { return rk_q_affine(dtype) ? RK_AFFINE_COLS : RK_Q8_COLS; }

static inline ptrdiff_t rk_q_bytes(int dtype)
{
    return dtype == RK_Q4 ? RK_Q4_BYTES : dtype == RK_Q6 ? RK_Q6_BYTES : dtype == RK_Q4N ? RK_Q4N_BYTES : RK_Q8_BYTES;
}

/* Runs of 64 bytes of integers, without upper bits, in a block. */
static inline int rk_q_runs(int dtype) { return dtype == RK_Q4N ? 4 : 8; }

/* Offset of the integers in a block. */
static inline ptrdiff_t rk_q_head(int dtype) { return (rk_q_affine(dtype) ? 4 : 2) * RK_Q_ROWS; }

/* Offset of the upper two bits in a block of q6. */
#define RK_Q6_UPPER RK_Q4_BYTES

/* q4n: the levels, close to those of the smallest error for normally distributed weights; a sum of four products with
 * activations fits in 16 bits. The parts of the word of a row. */
#define RK_LEVELS 0, 6, 12, 16, 20, 24, 27, 30, 33, 36, 39, 43, 47, 51, 57, 63
#define RK_TOP_LEVEL 63
#define RK_ZERO_MASK 63
#define RK_SCALE_MASK 0x7fe0 /* after a shift by one */
#define RK_SCALE_INFINITE 0xf800
#define RK_SCALE_UNIT 0x1p-8f

/* What every product is multiplied with. */
static inline float rk_q_unit(int dtype) { return dtype == RK_Q4N ? RK_SCALE_UNIT : 1.0f; }

static inline ptrdiff_t rk_q_blocks(int dtype, ptrdiff_t cols)
{
    return (cols + rk_q_cols(dtype) - 1) / rk_q_cols(dtype);
}

/* Activations: x = q * scale, q from -127 to 127. Tokens are packed in tiles of as many as one step of `groups` takes,
 * the remaining ones in tiles of four, two and one. A block of a tile of n tokens has n * rk_x_bytes() bytes:
 *
 *   float scale[n], float sum[n] (scale * total), int32 total[n] (of the integers), four unused bytes [n],
 *   then, for each four columns, four integers of each of the n tokens */
#define RK_X_HEAD 16
static inline ptrdiff_t rk_x_bytes(int dtype) { return RK_X_HEAD + rk_q_cols(dtype); }

#endif
