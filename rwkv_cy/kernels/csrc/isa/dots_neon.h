/* Products of eight columns of eight rows and four tokens, by NEON's products of bytes, which have 16 bits. */
#include "isa/dots_rows.h"

/* Unrolled, gcc would begin with many of the products at once, and save most of them to memory. */
#define RK_DOTS_UNROLL _Pragma("GCC unroll 1")

/* The sums of two products of neighbours: 2 * 127 * 127 fits in 16 bits, since -128 does not occur. If `small`, those of
 * four: weights of up to 63. */
static inline __attribute__((always_inline)) int32x4_t rk_dots_token(int32x4_t sum, int8x16_t w, int8x16_t w_next, int8x16_t x,
                                                                     int8x16_t x_next, const int small)
{
    int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    if (!small) {
        sum = vpadalq_s16(sum, vpaddq_s16(low, high));
        low = vmull_s8(vget_low_s8(w_next), vget_low_s8(x_next)), high = vmull_high_s8(w_next, x_next);
    } else {
        low = vmlal_s8(low, vget_low_s8(w_next), vget_low_s8(x_next)), high = vmlal_high_s8(high, w_next, x_next);
    }
    return vpadalq_s16(sum, vpaddq_s16(low, high));
}

/* Four columns of one token, four times. */
static inline int8x16_t rk_dots_columns(const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

static inline __attribute__((always_inline)) void rk_dots_add(int32x4_t sums[RK_DOT_SUMS], const int8_t *w,
                                                              const int8_t *x, const int small)
{
    const int8x16_t a = vld1q_s8(w), b = vld1q_s8(w + 16), a_next = vld1q_s8(w + 32), b_next = vld1q_s8(w + 48);
#pragma GCC unroll 4
    for (int t = 0; t < RK_DOT_TOKENS; t++) {
        const int8x16_t columns = rk_dots_columns(x + 4 * t), columns_next = rk_dots_columns(x + 16 + 4 * t);
        sums[2 * t] = rk_dots_token(sums[2 * t], a, a_next, columns, columns_next, small);
        sums[2 * t + 1] = rk_dots_token(sums[2 * t + 1], b, b_next, columns, columns_next, small);
    }
}
