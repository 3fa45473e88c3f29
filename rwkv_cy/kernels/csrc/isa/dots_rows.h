/* Sums of eight rows and four tokens, divided by tokens: vector 2 t + p has rows 4 p to 4 p + 3 of token t. */
#include "isa/dots.h"

#define RK_DOT_BYTES 4
#define RK_DOT_SCALES RK_DOT_ROWS

static inline void rk_dots_pack(rk_dot_rows a, rk_dot_rows b, int8_t *out)
{
    vst1q_s8(out, a.first), vst1q_s8(out + 16, b.first);
    vst1q_s8(out + 32, a.second), vst1q_s8(out + 48, b.second);
}

static inline void rk_dots_pack_scales(float32x4_t a, float32x4_t b, float *out)
{
    vst1q_f32(out, a), vst1q_f32(out + 4, b);
}

#define RK_DOTS_SCALE(j, w, x, t) acc[j] = vfmaq_f32(acc[j], vmulq_laneq_f32(w, x, t), vcvtq_f32_s32(sums[j]))

/* acc += (scale * x.scale) * sum; if affine, also + minimum * x.sum. w: scales and minimums of the rows; x: scales and
 * sums of the tokens. */
static inline __attribute__((always_inline)) void rk_dots_scale(float32x4_t acc[RK_DOT_SUMS],
                                                                const int32x4_t sums[RK_DOT_SUMS], const float *w,
                                                                const float *x, const int affine)
{
    const float32x4_t scales = vld1q_f32(x), totals = vld1q_f32(x + RK_DOT_TOKENS);
#pragma GCC unroll 2
    for (int p = 0; p < 2; p++) {
        const float32x4_t scale = vld1q_f32(w + 4 * p);
        RK_DOTS_SCALE(p, scale, scales, 0);
        RK_DOTS_SCALE(2 + p, scale, scales, 1);
        RK_DOTS_SCALE(4 + p, scale, scales, 2);
        RK_DOTS_SCALE(6 + p, scale, scales, 3);
        if (!affine) continue;
        const float32x4_t minimum = vld1q_f32(w + RK_DOT_SCALES + 4 * p);
        acc[p] = vfmaq_laneq_f32(acc[p], minimum, totals, 0);
        acc[2 + p] = vfmaq_laneq_f32(acc[2 + p], minimum, totals, 1);
        acc[4 + p] = vfmaq_laneq_f32(acc[4 + p], minimum, totals, 2);
        acc[6 + p] = vfmaq_laneq_f32(acc[6 + p], minimum, totals, 3);
    }
}

static inline void rk_dots_read(float32x4_t acc[RK_DOT_SUMS], const float *y, ptrdiff_t ldy)
{
    for (int j = 0; j < RK_DOT_SUMS; j++) acc[j] = vld1q_f32(y + j / 2 * ldy + j % 2 * 4);
}

static inline void rk_dots_write(const float32x4_t acc[RK_DOT_SUMS], float scale, float *y, ptrdiff_t ldy)
{
    for (int j = 0; j < RK_DOT_SUMS; j++) vst1q_f32(y + j / 2 * ldy + j % 2 * 4, vmulq_n_f32(acc[j], scale));
}
