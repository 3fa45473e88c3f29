/* exp of every lane of a vector. */

typedef int32_t rk_vi32 __attribute__((vector_size(RK_VECTOR_BYTES)));
typedef uint32_t rk_vu32 __attribute__((vector_size(RK_VECTOR_BYTES)));

/* `a` in the lanes where the mask is all ones, `b` where it is zero. */
static inline rk_vf32 rk_select_f32(rk_vi32 mask, rk_vf32 a, rk_vf32 b)
{
    return (rk_vf32)((mask & (rk_vi32)a) | (~mask & (rk_vi32)b));
}

/* exp(x) to 2 ulp for x from -87 to 88, by Cody and Waite's reduction x = n ln2 + r, |r| <= ln2 / 2, and a polynomial for
 * exp(r). */
static inline rk_vf32 rk_exp_in_range_f32(rk_vf32 x)
{
    const rk_vf32 zero = {0}, one = zero + 1.0f;
    const rk_vf32 round = zero + 0x1.8p23f; /* adding it leaves the integer nearest to x / ln2 in the low bits */
    rk_vf32 shifted = x * 1.44269504089f + round;
    rk_vf32 n = shifted - round;
    rk_vf32 r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    rk_vf32 p = zero + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return p * (rk_vf32)(((rk_vu32)shifted << 23) + (rk_vu32)one);
}

/* exp(x) to 2 ulp. Below -87 (1.6e-38) the result is 0, above 88 (1.7e38) infinity; NaN stays NaN. */
static inline rk_vf32 rk_exp_f32(rk_vf32 x)
{
    const rk_vf32 zero = {0}, least = zero - 87.0f, most = zero + 88.0f;
    rk_vf32 clamped = rk_select_f32((rk_vi32)(x < least), least, x);
    clamped = rk_select_f32((rk_vi32)(clamped > most), most, clamped);
    rk_vf32 result = rk_exp_in_range_f32(clamped);
    result = rk_select_f32((rk_vi32)(x < least), zero, result);
    return rk_select_f32((rk_vi32)(x > most), zero + INFINITY, result);
}

/* The same for x <= 0, but 0 for NaN. */
static inline rk_vf32 rk_exp_negative_f32(rk_vf32 x)
{
    return (rk_vf32)((rk_vi32)(x >= -87.0f) & (rk_vi32)rk_exp_in_range_f32(x));
}

/* x in the lanes where a > b, y in the others. */
static inline rk_vf32 rk_where_f32(rk_vf32 a, rk_vf32 b, rk_vf32 x, rk_vf32 y)
{
    return rk_select_f32((rk_vi32)(a > b), x, y);
}

/* tanh(x) to a few ulp. Small arguments use an odd polynomial (Cephes' tanhf), which keeps their relative precision;
 * large ones use 1 - 2 / (e^(2x) + 1). */
static inline rk_vf32 rk_tanh_f32(rk_vf32 x)
{
    const rk_vf32 zero = {0};
    const rk_vf32 z = x * x;
    rk_vf32 p = zero - 5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    p = p * z * x + x;
    const rk_vf32 large = 1.0f - 2.0f / (rk_exp_f32(x + x) + 1.0f);
    return rk_select_f32((rk_vi32)(z < 0.390625f), p, large);
}
