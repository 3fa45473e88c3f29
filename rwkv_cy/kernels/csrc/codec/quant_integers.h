/* Quantization of a block of activations, the same bits in every kernel family. Included with a family's target, so that
 * its loops use the family's vectors. */
#ifndef RK_QUANT_INTEGERS_H
#define RK_QUANT_INTEGERS_H

#include "scalar.h"

/* The largest magnitude among `width` activations; `width` is a constant after inlining. */
static inline __attribute__((always_inline)) float rk_largest(const float *x, const ptrdiff_t width)
{
    int32_t bits = 0;
    /* Magnitudes of floats compare as their bits do, with NaN above infinity, so that NaN is not lost. */
    for (ptrdiff_t i = 0; i < width; i++) {
        int32_t magnitude = (int32_t)(rk_f32_to_bits(x[i]) & 0x7fffffffu);
        bits = magnitude > bits ? magnitude : bits;
    }
    return rk_bits_to_f32((uint32_t)bits);
}

/* What activations are multiplied with to become integers, and what integers are multiplied with to become activations. */
static inline float rk_inverse_step(float largest)
{
    const float inverse = 127.0f / largest;
    return largest > 0 && inverse <= 0x1p+120f ? inverse : 0; /* 0 for NaN */
}

static inline float rk_step(float largest) { return largest / 127.0f; }

/* Quantize `width` activations; return the sum of the integers. */
static inline __attribute__((always_inline)) int32_t rk_integers(const float *x, const ptrdiff_t width, float inverse,
                                                                 int8_t *q)
{
    int32_t sum = 0;
    for (ptrdiff_t i = 0; i < width; i++) {
        /* Adding 1.5 * 2^23 leaves the nearest integer in the low bits. */
        float shifted = x[i] * inverse + 0x1.8p23f;
        int32_t integer = (int32_t)(rk_f32_to_bits(shifted) << 24) >> 24;
        q[i] = (int8_t)integer;
        sum += integer;
    }
    return sum;
}

/* Quantize `width` activations: integers, their sum, and the step (returned). */
static inline __attribute__((always_inline)) float rk_quantize_integers(const float *x, const ptrdiff_t width, int8_t *q,
                                                                        int32_t *total)
{
    const float largest = rk_largest(x, width);
    *total = rk_integers(x, width, rk_inverse_step(largest), q);
    return rk_step(largest);
}

#endif
