/* Four dot products of four integers each, by NEON. */
#include "isa/quant_neon_rows.h"

#define RK_Q_PAIRS 1

/* Products of bytes are summed in pairs in 16 bits: 2 * 127 * 127 fits, since -128 does not occur. */
static inline rk_qi rk_qi_dot(rk_qi acc, rk_qx w, rk_qx x)
{
    const int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)w), vget_low_s8((int8x16_t)x));
    const int16x8_t high = vmull_high_s8((int8x16_t)w, (int8x16_t)x);
    return (rk_qi)vpadalq_s16((int32x4_t)acc, vpaddq_s16(low, high));
}

/* Values of up to 63: the sum of four products fits in 16 bits. */
static inline rk_qi rk_qi_dot_pair(rk_qi acc, rk_qx w, rk_qx x, rk_qx w2, rk_qx x2)
{
    int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)w), vget_low_s8((int8x16_t)x));
    int16x8_t high = vmull_high_s8((int8x16_t)w, (int8x16_t)x);
    low = vmlal_s8(low, vget_low_s8((int8x16_t)w2), vget_low_s8((int8x16_t)x2));
    high = vmlal_high_s8(high, (int8x16_t)w2, (int8x16_t)x2);
    return (rk_qi)vpadalq_s16((int32x4_t)acc, vpaddq_s16(low, high));
}

#define RK_QI_DOT_PAIR(acc, w, x, w2, x2) rk_qi_dot_pair(acc, (rk_qx)(w), x, (rk_qx)(w2), x2)
