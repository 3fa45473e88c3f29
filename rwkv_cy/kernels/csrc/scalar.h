/* Numbers one at a time: 16-bit floats, and exp in forms that a compiler can vectorise. */
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

/* To nearest, ties to even; NaN stays NaN. */
static inline uint16_t rk_f32_to_bf16(float value)
{
    uint32_t bits = rk_f32_to_bits(value);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    uint32_t quiet = bits >> 16 | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

/* IEEE 754 half to single, subnormals, infinities and NaN included. */
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

/* exp(x) to 2 ulp, without branches. Below -87 (1.6e-38) the result is 0, above 88 (1.7e38) infinity; NaN stays NaN.
 * Cody and Waite's reduction x = n ln2 + r, |r| <= ln2 / 2, and a polynomial for exp(r). */
static inline float rk_exp_f32(float x)
{
    const float round = 0x1.8p23f; /* adding it leaves the integer nearest to x / ln2 in the low bits */
    float clamped = x < -87.0f ? -87.0f : x;
    clamped = clamped > 88.0f ? 88.0f : clamped;
    float shifted = clamped * 1.44269504089f + round;
    float n = shifted - round;
    float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    float result = p * rk_bits_to_f32((rk_f32_to_bits(shifted) << 23) + 0x3f800000u);
    result = x < -87.0f ? 0.0f : result;
    return x > 88.0f ? INFINITY : result;
}

static inline double rk_exp_f64(double x)
{
    return exp(x);
}

#endif
