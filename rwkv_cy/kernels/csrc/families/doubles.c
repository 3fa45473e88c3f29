/* Kernels in float64, compiled once for any CPU. They serve for checking, not for speed. */
#include "codec/bf12.h"
#include "gemm/columns.h"
#include "families/names.h"
#include "families/ops.h"

#define RK_VECTOR_BYTES 16
#define RK_PANEL_ROWS 4
#define RK_PANEL_TOKENS 2
#define RK_ROW_TOKENS 2
#define RK_FEW_TOKENS 8

typedef double rk_vf64 __attribute__((vector_size(16)));

#define RK_FMA_F64(a, b, c) ((a) * (b) + (c))

/* + 0.0 turns -0.0 into 0.0 (columns_body.h). */
static inline double rk_sum_f64(rk_vf64 v)
{
    return v[0] + v[1] + 0.0;
}

static inline void rk_sums_f64(const rk_vf64 *v, int n, double *sums)
{
    for (int i = 0; i < n; i++) sums[i] = rk_sum_f64(v[i]);
}

static inline rk_vf64 rk_exp_f64(rk_vf64 x)
{
    for (size_t i = 0; i < sizeof x / sizeof x[0]; i++) x[i] = exp(x[i]);
    return x;
}

static inline rk_vf64 rk_where_f64(rk_vf64 a, rk_vf64 b, rk_vf64 x, rk_vf64 y)
{
    for (size_t i = 0; i < sizeof a / sizeof a[0]; i++) a[i] = a[i] > b[i] ? x[i] : y[i];
    return a;
}

static inline rk_vf64 rk_tanh_f64(rk_vf64 x)
{
    for (size_t i = 0; i < sizeof x / sizeof x[0]; i++) x[i] = tanh(x[i]);
    return x;
}

#define RK_IS_F32 0
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
#define PACK_TRANSPOSED pack_transposed_f64
#include "gemm/load_body.h"

/* Pack panels of a transposed matrix in the layout of panels_body.h. */
static void pack_transposed_f64(const rk_matrix *m, ptrdiff_t first, ptrdiff_t panels, ptrdiff_t from, ptrdiff_t count,
                                double *packed)
{
    enum { LANES = 2 };
    for (ptrdiff_t r = 0; r < panels * RK_PANEL_ROWS; r++) {
        double *out = packed + (r / RK_PANEL_ROWS * count * RK_PANEL_ROWS + r % RK_PANEL_ROWS) * LANES;
        for (ptrdiff_t k = 0; k < count * LANES; k++) {
            const ptrdiff_t column = from * LANES + k;
            out[k / LANES * RK_PANEL_ROWS * LANES + k % LANES] =
                first + r < m->rows && column < m->cols ? ((const double *)m->data)[column * m->rows + first + r] : 0;
        }
    }
}

#include "gemm/rows_body.h"
#include "gemm/panels_body.h"
#include "gemm/columns_body.h"
#include "layer_body.h"
#include "gradients_body.h"

void rk_doubles(rk_table *table)
{
    table->f64 = (rk_ops){RK_OPS(f64, double)};
}
