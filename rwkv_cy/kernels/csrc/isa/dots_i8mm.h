/* Sums of eight rows and four tokens by products of matrices of eight columns. Vector 4 s + p has rows 2 p and 2 p + 1 of
 * tokens 2 s and 2 s + 1: both tokens of the first row, then of the second. */
#include "isa/dots.h"

#define RK_DOTS_UNROLL _Pragma("GCC unroll 8")

#define RK_DOT_BYTES 8
#define RK_DOT_SCALES (2 * RK_DOT_ROWS) /* twice each, as in a vector of sums */

static inline void rk_dots_pack(rk_dot_rows a, rk_dot_rows b, int8_t *out)
{
    const int32x4x2_t low = vzipq_s32(vreinterpretq_s32_s8(a.first), vreinterpretq_s32_s8(a.second));
    const int32x4x2_t high = vzipq_s32(vreinterpretq_s32_s8(b.first), vreinterpretq_s32_s8(b.second));
    vst1q_s8(out, vreinterpretq_s8_s32(low.val[0])), vst1q_s8(out + 16, vreinterpretq_s8_s32(low.val[1]));
    vst1q_s8(out + 32, vreinterpretq_s8_s32(high.val[0])), vst1q_s8(out + 48, vreinterpretq_s8_s32(high.val[1]));
}

static inline void rk_dots_pack_scales(float32x4_t a, float32x4_t b, float *out)
{
    vst1q_f32(out, vzip1q_f32(a, a)), vst1q_f32(out + 4, vzip2q_f32(a, a));
    vst1q_f32(out + 8, vzip1q_f32(b, b)), vst1q_f32(out + 12, vzip2q_f32(b, b));
}

static inline __attribute__((always_inline)) void rk_dots_add(int32x4_t sums[RK_DOT_SUMS], const int8_t *w,
                                                              const int8_t *x, const int small)
{
    (void)small;
    const int8x16_t x0 = vld1q_s8(x), x1 = vld1q_s8(x + 16);
#pragma GCC unroll 4
    for (int p = 0; p < 4; p++) {
        const int8x16_t rows = vld1q_s8(w + 16 * p);
        sums[p] = vmmlaq_s32(sums[p], rows, x0);
        sums[4 + p] = vmmlaq_s32(sums[4 + p], rows, x1);
    }
}

/* Numbers of two tokens, twice. */
static inline float32x4_t rk_dots_pair(const float *x)
{
    const float32x2_t two = vld1_f32(x);
    return vcombine_f32(two, two);
}

/* acc += (scale * x.scale) * sum; if affine, also + minimum * x.sum. w: scales and minimums of the rows; x: scales and
 * sums of the tokens. */
static inline __attribute__((always_inline)) void rk_dots_scale(float32x4_t acc[RK_DOT_SUMS],
                                                                const int32x4_t sums[RK_DOT_SUMS], const float *w,
                                                                const float *x, const int affine)
{
#pragma GCC unroll 2
    for (int s = 0; s < 2; s++) {
        const float32x4_t scales = rk_dots_pair(x + 2 * s), totals = rk_dots_pair(x + RK_DOT_TOKENS + 2 * s);
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) {
            const int j = 4 * s + p;
            acc[j] = vfmaq_f32(acc[j], vmulq_f32(vld1q_f32(w + 4 * p), scales), vcvtq_f32_s32(sums[j]));
            if (affine) acc[j] = vfmaq_f32(acc[j], vld1q_f32(w + RK_DOT_SCALES + 4 * p), totals);
        }
    }
}

static inline void rk_dots_read(float32x4_t acc[RK_DOT_SUMS], const float *y, ptrdiff_t ldy)
{
    for (int s = 0; s < 2; s++)
        for (int h = 0; h < 2; h++) {
            const float32x4_t a = vld1q_f32(y + 2 * s * ldy + 4 * h), b = vld1q_f32(y + (2 * s + 1) * ldy + 4 * h);
            acc[4 * s + 2 * h] = vzip1q_f32(a, b);
            acc[4 * s + 2 * h + 1] = vzip2q_f32(a, b);
        }
}

static inline void rk_dots_write(const float32x4_t acc[RK_DOT_SUMS], float scale, float *y, ptrdiff_t ldy)
{
    for (int s = 0; s < 2; s++)
        for (int h = 0; h < 2; h++) {
            const float32x4_t a = acc[4 * s + 2 * h], b = acc[4 * s + 2 * h + 1];
            vst1q_f32(y + 2 * s * ldy + 4 * h, vmulq_n_f32(vuzp1q_f32(a, b), scale));
            vst1q_f32(y + (2 * s + 1) * ldy + 4 * h, vmulq_n_f32(vuzp2q_f32(a, b), scale));
        }
}
