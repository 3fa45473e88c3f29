/* One instruction set: its vectors are defined before this file is included; its table comes out of it. */

#define RK_CAT2(a, b) a##_##b
#define RK_CAT(a, b) RK_CAT2(a, b)
#define RK_STR2(a) #a
#define RK_STR(a) RK_STR2(a)

#include "exp.h"

#include "bf12_words.h"
static void bf12_rows(const rk_matrix *m, const float *x, ptrdiff_t tokens, float *y, ptrdiff_t ldy, ptrdiff_t begin,
                      ptrdiff_t end);
static void bf12_pack_rows(const rk_matrix *m, ptrdiff_t first, float *packed);

#define RK_IS_F32 1
#define REAL float
#define SUFFIX f32
#define VEC rk_vf32
#define VEC_FMA RK_FMA_F32
#define VEC_SUM rk_sum_f32
#define VEC_EXP rk_exp_f32
#define VEC_LARGER rk_larger_f32
#define SQRT sqrtf
#include "matrix_body.h"
#include "columns_body.h"
#include "layer_body.h"
#undef REAL
#undef SUFFIX
#undef VEC
#undef VEC_FMA
#undef VEC_SUM
#undef VEC_EXP
#undef VEC_LARGER
#undef SQRT

#undef RK_IS_F32
#define RK_IS_F32 0
#define REAL double
#define SUFFIX f64
#define VEC rk_vf64
#define VEC_FMA RK_FMA_F64
#define VEC_SUM rk_sum_f64
#define VEC_EXP rk_exp_f64
#define VEC_LARGER rk_larger_f64
#define SQRT sqrt
#include "matrix_body.h"
#include "columns_body.h"
#include "layer_body.h"

#include "bf12_body.h"

#define QT_f32 quantize_tokens
#define QG_f32 groups
#define QT_f64 NULL
#define QG_f64 NULL
#define Q_(name) RK_CAT(quant, name)
#include "quant_body.h"
#include "stream_body.h"

#define RK_OPS(suffix, type)                                                                            \
    {                                                                                                   \
        .lanes = RK_VECTOR_BYTES / sizeof(type), .panel_rows = RK_PANEL_ROWS,                           \
        .panel_tokens = RK_PANEL_TOKENS, .rows = rows_##suffix, .pack_tokens = pack_tokens_##suffix,    \
        .panels = panels_##suffix, .columns = columns_##suffix, .add_lanes = add_lanes_##suffix,        \
        .layer_norm = layer_norm_##suffix,                                                              \
        .token_shift = token_shift_##suffix, .wkv4 = wkv4_##suffix,                                     \
        .relu_squared = relu_squared_##suffix, .add_gated = add_gated_##suffix, .add = add_##suffix,    \
        .multiply = multiply_##suffix, .quantize_tokens = QT_##suffix, .groups = QG_##suffix,           \
        .wide_groups = RK_Q_WIDE                                                                        \
    }

const rk_table RK_CAT(rk_table, RK_NAME) = {
    .name = RK_STR(RK_NAME),
    .f32 = RK_OPS(f32, float),
    .f64 = RK_OPS(f64, double),
    .sum_words = sum_words,
};
