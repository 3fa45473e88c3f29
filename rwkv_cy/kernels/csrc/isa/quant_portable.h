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
