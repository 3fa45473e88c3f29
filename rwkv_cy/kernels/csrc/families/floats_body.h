/* The floats family for one instruction set: products with float matrices and element-wise kernels. Include simd_*.h
 * and bf12_*.h, which define its vectors, before. */
#include "codec/bf12.h"
#include "gemm/columns.h"
#include "exp.h"
#include "families/names.h"
#include "families/ops.h"
#include "pick.h"
#include "scalar.h"

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
#define PACK_TRANSPOSED transpose_panels
#include "gemm/load_body.h"
#include "codec/bf12_words.h"
#include "codec/bf12_body.h"
#include "gemm/transpose_panels_body.h"
#include "gemm/rows_body.h"
#include "gemm/panels_body.h"
#include "gemm/columns_body.h"
#include "layer_body.h"
#include "gradients_body.h"
#include "stream_body.h"
#include "codec/narrow_body.h"
#include "sample_body.h"

/* For CPUs that cannot multiply bf16: round n floats to bf16 precision. */
static void round_f32(const void *x_, void *out_, ptrdiff_t n)
{
    const float *x = x_;
    float *out = out_;
    for (ptrdiff_t i = 0; i < n; i++) out[i] = rk_bf16_to_f32(rk_f32_to_bf16(x[i]));
}

void RK_CAT(rk_floats, RK_NAME)(rk_table *table)
{
    table->f32 = (rk_ops){RK_OPS(f32, float), .round = round_f32};
    table->sum_words = sum_words;
    table->narrow = narrow;
    table->copy_largest = copy_largest;
    table->weigh = weigh;
    table->at_least = at_least;
    table->weight_from = weight_from;
}
