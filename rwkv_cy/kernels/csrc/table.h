/* One instruction set: its vectors are defined before this file is included; its table comes out of it. */

#define RK_CAT2(a, b) a##_##b
#define RK_CAT(a, b) RK_CAT2(a, b)
#define RK_STR2(a) #a
#define RK_STR(a) RK_STR2(a)


/* In float64, which is for checking, each vector is summed on its own. */
static inline void rk_sums_f64(const rk_vf64 *v, int n, double *sums)
{
    for (int i = 0; i < n; i++) sums[i] = rk_sum_f64(v[i]);
}

typedef int32_t rk_vi32 __attribute__((vector_size(RK_VECTOR_BYTES)));
typedef int64_t rk_vi64 __attribute__((vector_size(RK_VECTOR_BYTES)));

/* Lane by lane: a where the mask (of a comparison) is set, else b. */
static inline rk_vf32 rk_select_f32(rk_vi32 mask, rk_vf32 a, rk_vf32 b)
{
    return (rk_vf32)((mask & (rk_vi32)a) | (~mask & (rk_vi32)b));
}

static inline rk_vf64 rk_select_f64(rk_vi64 mask, rk_vf64 a, rk_vf64 b)
{
    return (rk_vf64)((mask & (rk_vi64)a) | (~mask & (rk_vi64)b));
}

/* rk_exp_f32 of every lane, the same steps: compilers do not vectorise that one among other work. */
static inline rk_vf32 rk_exps_f32(rk_vf32 x)
{
    const rk_vf32 zero = {0}, low = zero - 87.0f, high = zero + 88.0f, round = zero + 0x1.8p23f;
    rk_vf32 clamped = rk_select_f32(x < low, low, x);
    clamped = rk_select_f32(clamped > high, high, clamped);
    rk_vf32 shifted = clamped * 1.44269504089f + round;
    rk_vf32 n = shifted - round;
    rk_vf32 r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
    rk_vf32 p = zero + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    /* Through unsigned: the shift may reach the sign. */
    typedef uint32_t bits __attribute__((vector_size(RK_VECTOR_BYTES)));
    rk_vf32 result = p * (rk_vf32)(((bits)shifted << 23) + 0x3f800000u);
    result = rk_select_f32(x < low, zero, result);
    return rk_select_f32(x > high, zero + INFINITY, result);
}

static inline rk_vf64 rk_exps_f64(rk_vf64 x)
{
    for (size_t i = 0; i < sizeof x / sizeof(double); i++) x[i] = rk_exp_f64(x[i]);
    return x;
}

#define RK_IS_F32 1
#define REAL float
#define SUFFIX f32
#define VEC rk_vf32
#define VEC_FMA RK_FMA_F32
#define VEC_SUM rk_sum_f32
#define VEC_SUMS rk_sums_f32
#define EXP rk_exp_f32
#define VEC_EXP rk_exps_f32
#define VEC_SELECT rk_select_f32
#define SQRT sqrtf
#define NUM REAL
#define NVEC VEC
#define VEC_DOT VEC_FMA
#define OWN_DTYPE RK_F32
#include "matrix_body.h"
#include "layer_body.h"

static void round_f32(const void *x_, void *out_, ptrdiff_t begin, ptrdiff_t end)
{
    const float *x = x_;
    float *out = out_;
    for (ptrdiff_t i = begin; i < end; i++) out[i] = rk_bf16_to_f32(rk_f32_to_bf16(x[i]));
}

/* The same sums from an instruction that multiplies bf16, two columns to a lane. */
#undef RK_IS_F32
#define RK_IS_F32 0
#undef NUM
#undef NVEC
#undef VEC_DOT
#undef OWN_DTYPE
#undef SUFFIX
#define OWN_DTYPE RK_BF16
#ifdef RK_DOT_BF16
#define SUFFIX bf16
#define NUM uint16_t
#define NVEC rk_vbf16
#define VEC_DOT RK_DOT_BF16
#include "matrix_body.h"
#undef SUFFIX
#undef NUM
#undef NVEC
#undef VEC_DOT

static void round_bf16(const void *x_, void *out_, ptrdiff_t begin, ptrdiff_t end)
{
    const float *x = x_;
    uint16_t *out = out_;
    for (ptrdiff_t i = begin; i < end; i++) out[i] = rk_f32_to_bf16(x[i]);
}

static const rk_ops ops_bf16 = {
    .itemsize = sizeof(uint16_t), .lanes = RK_VECTOR_BYTES / sizeof(uint16_t), .panel_rows = RK_PANEL_ROWS,
    .panel_tokens = RK_PANEL_TOKENS, .rows = rows_bf16, .pack_tokens = pack_tokens_bf16, .panels = panels_bf16,
    .round = round_bf16,
};
#define BF16_f32 &ops_bf16
#else
#define BF16_f32 NULL
#endif
#undef OWN_DTYPE
#define BF16_f64 NULL
#define ROUND_f32 round_f32
#define ROUND_f64 NULL

#undef REAL
#undef VEC
#undef VEC_FMA
#undef VEC_SUM
#undef VEC_SUMS
#undef EXP
#undef VEC_EXP
#undef VEC_SELECT
#undef SQRT

#define REAL double
#define SUFFIX f64
#define VEC rk_vf64
#define VEC_FMA RK_FMA_F64
#define VEC_SUM rk_sum_f64
#define VEC_SUMS rk_sums_f64
#define EXP rk_exp_f64
#define VEC_EXP rk_exps_f64
#define VEC_SELECT rk_select_f64
#define SQRT sqrt
#define NUM REAL
#define NVEC VEC
#define VEC_DOT VEC_FMA
#define OWN_DTYPE RK_F64
#include "matrix_body.h"
#include "layer_body.h"

#define QT_f32 quantize_tokens
#define QG_f32 groups
#define QT_f64 NULL
#define QG_f64 NULL
#define Q_(name) RK_CAT(quant, name)
#include "quant_body.h"

#define RK_OPS(suffix, type)                                                                                    \
    {                                                                                                           \
        .itemsize = sizeof(type), .lanes = RK_VECTOR_BYTES / sizeof(type), .panel_rows = RK_PANEL_ROWS,         \
        .panel_tokens = RK_PANEL_TOKENS, .rows = rows_##suffix, .pack_tokens = pack_tokens_##suffix,            \
        .panels = panels_##suffix, .round = ROUND_##suffix, .bf16 = BF16_##suffix,                              \
        .quantize_tokens = QT_##suffix, .groups = QG_##suffix, .layer_norm = layer_norm_##suffix,               \
        .token_shift = token_shift_##suffix, .wkv4 = wkv4_##suffix, .relu_squared = relu_squared_##suffix,      \
        .add_gated = add_gated_##suffix, .add = add_##suffix, .multiply = multiply_##suffix                     \
    }

const rk_table RK_CAT(rk_table, RK_NAME) = {
    .name = RK_STR(RK_NAME),
    .f32 = RK_OPS(f32, float),
    .f64 = RK_OPS(f64, double),
};
