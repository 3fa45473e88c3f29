/* What the backward passes of versions with a matrix-valued state share, for one type of activations and one instruction
 * set: GroupNorm of one head, and activations of low-rank products. */
#include "gradients_heads.h"

/* GroupNorm of one head, backward: y becomes the gradient of the result's argument, given d_norm, the gradient of
 *   norm = x * weight + bias,  x = (y - mean) * scale
 * The gradients of weight and bias are added to. */
static void FN(head_norm_gradient)(REAL *y, const REAL *d_norm, ptrdiff_t size, REAL mean, REAL scale,
                                   const REAL *weight, REAL *d_weight, REAL *d_bias)
{
    VEC all = {0}, along = {0};
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const ptrdiff_t n = size - i;
        const VEC d = FN(get)(d_norm + i, n), x = (FN(get)(y + i, n) - mean) * scale, dx = d * FN(get)(weight + i, n);
        FN(put)(d_weight + i, VEC_FMA(d, x, FN(get)(d_weight + i, n)), n);
        FN(put)(d_bias + i, FN(get)(d_bias + i, n) + d, n);
        all += dx;
        along = VEC_FMA(dx, x, along);
    }
    /* d_y = scale (d_x - E[d_x] - x E[d_x x]) */
    const REAL common = VEC_SUM(all) / (REAL)size, slope = VEC_SUM(along) / (REAL)size;
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const ptrdiff_t n = size - i;
        const VEC x = (FN(get)(y + i, n) - mean) * scale;
        const VEC dx = FN(get)(d_norm + i, n) * FN(get)(weight + i, n);
        FN(put)(y + i, (dx - common - x * slope) * scale, n);
    }
}

/* target += x * y for one head. */
static inline void FN(add_product)(REAL *target, VEC x, VEC y, ptrdiff_t n)
{
    FN(put)(target, VEC_FMA(x, y, FN(get)(target, n)), n);
}

/* Of y = tanh(x) and y = sigmoid(x): d, the gradient of y, becomes that of x. */
static void FN(tanh_gradient)(const void *y_, void *d_, ptrdiff_t begin, ptrdiff_t end)
{
    const REAL *y = y_;
    REAL *d = d_;
    for (ptrdiff_t i = begin; i < end; i++) d[i] *= (REAL)1 - y[i] * y[i];
}

static void FN(sigmoid_gradient)(const void *y_, void *d_, ptrdiff_t begin, ptrdiff_t end)
{
    const REAL *y = y_;
    REAL *d = d_;
    for (ptrdiff_t i = begin; i < end; i++) d[i] *= y[i] * ((REAL)1 - y[i]);
}
