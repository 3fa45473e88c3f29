/* Four dot products of four integers each, by NEON. */
#include "codec/quant.h"
#include "isa/quant_types.h"

static inline rk_qi rk_qi_dot(rk_qi acc, rk_qx w, rk_qx x)
{
    int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)w), vget_low_s8((int8x16_t)x));
    int16x8_t high = vmull_s8(vget_high_s8((int8x16_t)w), vget_high_s8((int8x16_t)x));
    return acc + (rk_qi)vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
}

static inline rk_qw rk_qw_level(rk_qw v)
{
    static const uint8_t levels[16] = {RK_LEVELS};
    return (rk_qw)vqtbl1q_u8(vld1q_u8(levels), (uint8x16_t)v);
}
