/* One instruction set: its vectors are defined before this file is included; its table comes out of it. */

#define RK_CAT2(a, b) a##_##b
#define RK_CAT(a, b) RK_CAT2(a, b)
#define RK_STR2(a) #a
#define RK_STR(a) RK_STR2(a)

#include "exp.h"
#include "pick.h"

/* In float64, which is for checking, each vector is summed on its own. */
static inline void rk_sums_f64(const rk_vf64 *v, int n, double *sums)
{
    for (int i = 0; i < n; i++) sums[i] = rk_sum_f64(v[i]);
}

#include "bf12_words.h"
static void bf12_rows(const rk_matrix *m, const float *x, ptrdiff_t tokens, float *y, ptrdiff_t ldy, ptrdiff_t begin,
                      ptrdiff_t end);
static void bf12_pack_rows(const rk_matrix *m, ptrdiff_t first, ptrdiff_t begin, ptrdiff_t end, float *packed);
static void turn_panels(const rk_matrix *m, int pairs, ptrdiff_t first, ptrdiff_t panels, ptrdiff_t from,
                        ptrdiff_t count, void *packed);

#define RK_IS_F32 1
#define REAL float
#define SUFFIX f32
#define VEC rk_vf32
#define VEC_FMA RK_FMA_F32
#define VEC_SUM rk_sum_f32
#define VEC_SUMS rk_sums_f32
#define VEC_EXP rk_exp_f32
#define VEC_TANH rk_tanh_f32
#define VEC_WHERE rk_where_f32
#define SQRT sqrtf
#define NUM REAL
#define NVEC VEC
#define VEC_DOT VEC_FMA
#define OWN_DTYPE RK_F32
#include "matrix_body.h"
#include "columns_body.h"
#include "layer_body.h"
#undef SUFFIX
#undef NUM
#undef NVEC
#undef VEC_DOT
#undef OWN_DTYPE
#undef RK_IS_F32
#define RK_IS_F32 0

static void round_f32(const void *x_, void *out_, ptrdiff_t n)
{
    const float *x = x_;
    float *out = out_;
    for (ptrdiff_t i = 0; i < n; i++) out[i] = rk_bf16_to_f32(rk_f32_to_bf16(x[i]));
}

/* The same sums from an instruction that multiplies bf16, two columns to a lane. */
#ifdef RK_DOT_BF16
#define SUFFIX bf16
#define NUM uint16_t
#define NVEC rk_vbf16
#define VEC_DOT RK_DOT_BF16
#define OWN_DTYPE RK_BF16
#include "matrix_body.h"
#include "columns_bf16.h"
#undef SUFFIX
#undef NUM
#undef NVEC
#undef VEC_DOT
#undef OWN_DTYPE

static void round_bf16(const void *x_, void *out_, ptrdiff_t n)
{
    const float *x = x_;
    uint16_t *out = out_;
    for (ptrdiff_t i = 0; i < n; i++) out[i] = rk_f32_to_bf16(x[i]);
}

static const rk_ops ops_bf16 = {
    .itemsize = sizeof(uint16_t), .sumsize = sizeof(float), .lanes = RK_VECTOR_BYTES / sizeof(uint16_t),
    .panel_rows = RK_PANEL_ROWS, .panel_tokens = RK_PANEL_TOKENS, .few_tokens = RK_FEW_TOKENS, .rows = rows_bf16,
    .pack_token = pack_token_bf16, .panels = panels_bf16,
    .round = round_bf16, .columns = columns_bf16, .add_lanes = add_lanes_f32,
};
#define BF16_f32 &ops_bf16
#else
#define BF16_f32 NULL
#endif

#undef REAL
#undef VEC
#undef VEC_FMA
#undef VEC_SUM
#undef VEC_SUMS
#undef VEC_EXP
#undef VEC_TANH
#undef VEC_WHERE
#undef SQRT

#define REAL double
#define SUFFIX f64
#define VEC rk_vf64
#define VEC_FMA RK_FMA_F64
#define VEC_SUM rk_sum_f64
#define VEC_SUMS rk_sums_f64
#define VEC_EXP rk_exp_f64
#define VEC_TANH rk_tanh_f64
#define VEC_WHERE rk_where_f64
#define SQRT sqrt
#define NUM REAL
#define NVEC VEC
#define VEC_DOT VEC_FMA
#define OWN_DTYPE RK_F64
#include "matrix_body.h"
#include "columns_body.h"
#include "layer_body.h"

#include "bf12_body.h"
#include "turn_body.h"

#define QT_f32 quantize_token
#define QG_f32 groups
#define QT_f64 NULL
#define QG_f64 NULL
#define Q_(name) RK_CAT(quant, name)
#include "quant_body.h"
#include "stream_body.h"

#define BF16_f64 NULL
#define ROUND_f32 round_f32
#define ROUND_f64 NULL

#define RK_OPS(suffix, type)                                                                                    \
    {                                                                                                           \
        .itemsize = sizeof(type), .sumsize = sizeof(type), .lanes = RK_VECTOR_BYTES / sizeof(type),             \
        .panel_rows = RK_PANEL_ROWS, .panel_tokens = RK_PANEL_TOKENS, .few_tokens = RK_FEW_TOKENS,              \
        .rows = rows_##suffix, .pack_token = pack_token_##suffix,                                             \
        .panels = panels_##suffix, .round = ROUND_##suffix, .bf16 = BF16_##suffix,                              \
        .columns = columns_##suffix, .add_lanes = add_lanes_##suffix,                                           \
        .quantize_token = QT_##suffix, .groups = QG_##suffix, .wide_groups = RK_Q_WIDE,                        \
        .layer_norm = layer_norm_##suffix, .token_shift = token_shift_##suffix,                                   \
        .token_lerp = token_lerp_##suffix, .tanh = tanh_all_##suffix, .sigmoid = sigmoid_all_##suffix,          \
        .wkv4 = wkv4_##suffix, .wkv7 = wkv7_##suffix, .wkv7_finish = wkv7_finish_##suffix,                      \
        .relu_squared = relu_squared_##suffix, .add_gated = add_gated_##suffix, .add = add_##suffix,            \
        .multiply = multiply_##suffix, .all_finite = all_finite_##suffix                                        \
    }

const rk_table RK_CAT(rk_table, RK_NAME) = {
    .name = RK_STR(RK_NAME),
    .f32 = RK_OPS(f32, float),
    .f64 = RK_OPS(f64, double),
    .sum_words = sum_words,
};
