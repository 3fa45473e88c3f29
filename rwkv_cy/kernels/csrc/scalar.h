/* Scalar conversions: bits of floats, 16-bit floats. */
#ifndef RK_SCALAR_H
#define RK_SCALAR_H

#include "rk.h"

static inline float rk_bits_to_f32(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t rk_f32_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float rk_bf16_to_f32(uint16_t h)
{
    return rk_bits_to_f32((uint32_t)h << 16);
}

/* Round to nearest, ties to even; NaN stays NaN. */
static inline uint16_t rk_f32_to_bf16(float value)
{
    uint32_t bits = rk_f32_to_bits(value);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    uint32_t quiet = bits >> 16 | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

/* IEEE 754 half to single, including subnormals, infinities and NaN. */
static inline float rk_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t rest = h & 0x7fffu;
    if (rest >= 0x7c00u) return rk_bits_to_f32(sign | 0x7f800000u | (rest & 0x3ffu) << 13 | (rest > 0x7c00u) << 22);
    if (rest >= 0x0400u) return rk_bits_to_f32(sign | ((rest << 13) + 0x38000000u));
    /* A subnormal is rest * 2^-24, exactly. */
    float magnitude = (float)rest * 0x1p-24f;
    return sign ? -magnitude : magnitude;
}

#endif
