/* Sums of eight rows and four tokens in eight vectors of NEON: how dots_*.h, one for each instruction that multiplies
 * bytes, divides them.
 *
 * Eight columns are multiplied at a time: 64 bytes of weights and 32 bytes of tokens, packed as the instruction takes
 * them. A header defines RK_DOT_BYTES, the columns of a token that are stored side by side; RK_DOT_SCALES, the floats that
 * hold a number of each row; RK_DOTS_UNROLL, which says how often a loop over columns is unrolled; and functions that pack
 * weights and numbers, add products, scale sums, and read and write sums [token][row]. Adding products may be simpler if
 * the weights are `small`, up to 63; that is a constant after inlining. */
#ifndef RK_DOTS_H
#define RK_DOTS_H

#include <arm_neon.h>

enum { RK_DOT_ROWS = 8, RK_DOT_TOKENS = 4, RK_DOT_SUMS = 8 };

/* Four rows of eight columns: the first four columns, and the others. */
typedef struct {
    int8x16_t first, second;
} rk_dot_rows;

#endif
