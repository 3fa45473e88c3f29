/* Four dot products of four integers each, by the compiler's vector types. */
#include "codec/quant.h"
#include "isa/quant_types.h"

typedef int16_t rk_qs __attribute__((vector_size(16)));

/* Products of the even and of the odd bytes, in 16 bits: the sum of two fits, since no integer is -128. */
static inline rk_qi rk_qi_dot(rk_qi acc, rk_qx w, rk_qx x)
{
    rk_qs pairs = ((rk_qs)w << 8 >> 8) * ((rk_qs)x << 8 >> 8) + ((rk_qs)w >> 8) * ((rk_qs)x >> 8);
    return acc + ((rk_qi)pairs << 16 >> 16) + ((rk_qi)pairs >> 16);
}

static inline rk_qw rk_qw_level(rk_qw v)
{
    static const uint8_t levels[16] = {RK_LEVELS};
    uint8_t bytes[16];
    memcpy(bytes, &v, 16);
    /* Unrolled into the blocks that call it, it is a quarter of the time that all kernels take to compile. */
#pragma GCC unroll 1
    for (int i = 0; i < 16; i++) bytes[i] = levels[bytes[i]];
    memcpy(&v, bytes, 16);
    return v;
}

/* The four lower bits of each byte, and above them 2-bit field 0 to 3 of `upper`. */
static inline rk_qw rk_qw_join(rk_qw low, rk_qw upper, int field)
{
    return low | (upper >> 2 * field & 3) << 4;
}

/* The scale and the zero of four rows of q4n. */
static inline rk_qf rk_qf_scale(const uint16_t *p)
{
    uint16_t halves[4];
    for (int i = 0; i < 4; i++) halves[i] = p[i] >> 1 & RK_SCALE_MASK;
    return rk_load_f16(halves);
}

static inline rk_qi rk_qi_zero(const uint16_t *p)
{
    rk_qi zero;
    for (int i = 0; i < 4; i++) zero[i] = p[i] & RK_ZERO_MASK;
    return zero;
}

#define RK_Q_PAIRS 0
#define RK_QI_DOT_PAIR(acc, w, x, w2, x2) (acc) /* not used: RK_Q_PAIRS */
