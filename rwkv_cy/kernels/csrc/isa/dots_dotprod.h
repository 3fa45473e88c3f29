/* Products of eight columns of eight rows and four tokens, by dot products of four bytes. */
#include "isa/dots_rows.h"

#define RK_DOTS_UNROLL _Pragma("GCC unroll 8")

/* The number of a token is a constant of the instruction. */
#define RK_DOTS_TOKEN(sums, a, b, x, t)                                                                                \
    (sums[2 * t] = vdotq_laneq_s32(sums[2 * t], a, x, t), sums[2 * t + 1] = vdotq_laneq_s32(sums[2 * t + 1], b, x, t))

static inline __attribute__((always_inline)) void rk_dots_add(int32x4_t sums[RK_DOT_SUMS], const int8_t *w,
                                                              const int8_t *x, const int small)
{
    (void)small;
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++, w += 32, x += 16) {
        const int8x16_t a = vld1q_s8(w), b = vld1q_s8(w + 16), tokens = vld1q_s8(x);
        RK_DOTS_TOKEN(sums, a, b, tokens, 0);
        RK_DOTS_TOKEN(sums, a, b, tokens, 1);
        RK_DOTS_TOKEN(sums, a, b, tokens, 2);
        RK_DOTS_TOKEN(sums, a, b, tokens, 3);
    }
}
