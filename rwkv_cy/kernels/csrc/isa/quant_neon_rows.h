/* What quantized types need besides dot products, by NEON. */
#include "codec/quant.h"
#include "isa/quant_types.h"

static inline rk_qw rk_qw_level(rk_qw v)
{
    static const uint8_t levels[16] = {RK_LEVELS};
    return (rk_qw)vqtbl1q_u8(vld1q_u8(levels), (uint8x16_t)v);
}

/* The four lower bits of each byte, and above them 2-bit field 0 to 3 of `upper`. */
static inline rk_qw rk_qw_join(rk_qw low, rk_qw upper, int field)
{
    switch (field) {
    case 0: upper = upper << 4; break;
    case 1: upper = upper << 2; break;
    case 3: upper = upper >> 2; break;
    }
    return (rk_qw)vbslq_u8(vdupq_n_u8(0x30), (uint8x16_t)upper, (uint8x16_t)low);
}

/* The scale and the zero of four rows of q4n. */
static inline rk_qf rk_qf_scale(const uint16_t *p)
{
    const uint16x4_t half = vand_u16(vshr_n_u16(vld1_u16(p), 1), vdup_n_u16(RK_SCALE_MASK));
    return (rk_qf)vcvt_f32_f16(vreinterpret_f16_u16(half));
}

static inline rk_qi rk_qi_zero(const uint16_t *p)
{
    return (rk_qi)vmovl_u16(vand_u16(vld1_u16(p), vdup_n_u16(RK_ZERO_MASK)));
}
