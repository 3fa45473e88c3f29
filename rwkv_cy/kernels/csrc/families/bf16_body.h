/* The bf16 family: products of many rounded activations with a bf16 matrix, by an instruction that multiplies bf16, two
 * columns per lane. Include simd_*.h and define RK_DOT_BF16 before. */
#include "codec/bf12.h"
#include "families/names.h"
#include "pick.h"
#include "scalar.h"

#define REAL float
#define VEC rk_vf32
#define VEC_SUMS rk_sums_f32

#define RK_IS_F32 1
#define SUFFIX f32
#define NUM REAL
#define NVEC VEC
#define OWN_DTYPE RK_F32
#include "gemm/load_body.h"
#undef RK_IS_F32
#undef SUFFIX
#undef NUM
#undef NVEC
#undef OWN_DTYPE

#define RK_IS_F32 0
#define SUFFIX bf16
#define NUM uint16_t
#define NVEC rk_vbf16
#define VEC_DOT RK_DOT_BF16
#define OWN_DTYPE RK_BF16
#define PACK_TRANSPOSED transpose_panels
#include "gemm/load_body.h"
#include "gemm/transpose_panels_body.h"
#include "gemm/panels_body.h"

static void round_bf16(const void *x_, void *out_, ptrdiff_t n)
{
    const float *x = x_;
    uint16_t *out = out_;
    for (ptrdiff_t i = 0; i < n; i++) out[i] = rk_f32_to_bf16(x[i]);
}

void RK_CAT(rk_bf16, RK_NAME)(rk_table *table)
{
    table->bf16 = (rk_ops){
        .itemsize = sizeof(uint16_t), .sumsize = sizeof(float), .lanes = RK_VECTOR_BYTES / sizeof(uint16_t),
        .panel_rows = RK_PANEL_ROWS, .panel_tokens = RK_PANEL_TOKENS, .few_tokens = table->f32.few_tokens,
        .pack_token = pack_token_bf16, .panels = panels_bf16, .round = round_bf16,
    };
    table->f32.bf16 = &table->bf16;
}
