/* Element-wise work of a layer, LayerNorm and WKV, for one type of activations and one instruction set. */

#define LANES ((ptrdiff_t)(sizeof(VEC) / sizeof(REAL)))
#define FN(name) RK_CAT(name, SUFFIX)

static inline VEC FN(sigmoid)(VEC x)
{
    return (REAL)1 / ((REAL)1 + VEC_EXP(-x));
}

/* Load or store up to LANES elements, of which n remain: the last vector of an array may be partial. */
static inline VEC FN(get)(const REAL *p, ptrdiff_t n)
{
    return n >= LANES ? FN(load)(p) : FN(load_part)(p, n);
}

static inline void FN(put)(REAL *p, VEC v, ptrdiff_t n)
{
    if (n >= LANES)
        memcpy(p, &v, sizeof v);
    else
        memcpy(p, &v, (size_t)n * sizeof(REAL));
}

/* Sum of x - center, or of its square if `squared`. */
static inline __attribute__((always_inline)) REAL FN(total)(const REAL *x, ptrdiff_t width, REAL center, int squared)
{
    VEC acc = {0};
    VEC mean = acc + center;
    ptrdiff_t i = 0;
    for (; i + LANES <= width; i += LANES) {
        VEC v = FN(load)(x + i) - mean;
        acc = squared ? VEC_FMA(v, v, acc) : acc + v;
    }
    REAL sum = VEC_SUM(acc);
    for (; i < width; i++) {
        REAL v = x[i] - center;
        sum += squared ? v * v : v;
    }
    return sum;
}

static void FN(layer_norm)(const void *x_, const void *weight_, const void *bias_, double eps, ptrdiff_t width,
                           void *y_, ptrdiff_t begin, ptrdiff_t end)
{
    const REAL *weight = weight_, *bias = bias_;
    for (ptrdiff_t t = begin; t < end; t++) {
        const REAL *x = (const REAL *)x_ + t * width;
        REAL *y = (REAL *)y_ + t * width;
        /* y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias */
        REAL mean = FN(total)(x, width, 0, 0) / (REAL)width;
        REAL variance = FN(total)(x, width, mean, 1) / (REAL)width;
        REAL scale = (REAL)1 / SQRT(variance + (REAL)eps);
        for (ptrdiff_t i = 0; i < width; i++) y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
    }
}

static void FN(token_shift)(const void *x_, const void *before_, const void *mix_, ptrdiff_t width, void *y_)
{
    const REAL *x = x_, *before = before_, *mix = mix_;
    REAL *y = y_;
    for (ptrdiff_t i = 0; i < width; i++) y[i] = x[i] * mix[i] + before[i] * ((REAL)1 - mix[i]);
}

static void FN(token_lerp)(const void *x_, const void *before_, const void *mix_, const void *more_, ptrdiff_t width,
                           void *y_)
{
    const REAL *x = x_, *before = before_, *mix = mix_, *more = more_;
    REAL *y = y_;
    if (more == NULL)
        for (ptrdiff_t i = 0; i < width; i++) y[i] = x[i] + (before[i] - x[i]) * mix[i];
    else
        for (ptrdiff_t i = 0; i < width; i++) y[i] = x[i] + (before[i] - x[i]) * (mix[i] + more[i]);
}

static void FN(sigmoid_all)(const void *x_, void *y_, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i += LANES)
        FN(put)((REAL *)y_ + i, FN(sigmoid)(FN(get)((const REAL *)x_ + i, n - i)), n - i);
}

static void FN(tanh_all)(const void *x_, void *y_, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i += LANES)
        FN(put)((REAL *)y_ + i, VEC_TANH(FN(get)((const REAL *)x_ + i, n - i)), n - i);
}

#include "wkv/bodies.h"

static void FN(relu_squared)(const void *x_, void *y_, ptrdiff_t n)
{
    const REAL *x = x_;
    REAL *y = y_;
    /* The comparison lets NaN through, so that it is detected at the logits. */
    for (ptrdiff_t i = 0; i < n; i++) y[i] = x[i] <= 0 ? 0 : x[i] * x[i];
}

static void FN(relu_squared_scaled)(const void *x_, const void *mix_, const void *more_, void *y_, ptrdiff_t n)
{
    const REAL *x = x_, *mix = mix_, *more = more_;
    REAL *y = y_;
    for (ptrdiff_t i = 0; i < n; i++) y[i] = (x[i] <= 0 ? 0 : x[i] * x[i]) * (mix[i] + more[i]);
}

static void FN(token_matrices)(const void *x_, const void *m_, ptrdiff_t size, void *y_, ptrdiff_t begin, ptrdiff_t end)
{
    for (ptrdiff_t t = begin; t < end; t++) {
        const REAL *x = (const REAL *)x_ + t * size, *m = (const REAL *)m_ + t * size * size;
        REAL *y = (REAL *)y_ + t * size;
        for (ptrdiff_t j = 0; j < size; j++) y[j] = 0;
        for (ptrdiff_t i = 0; i < size; i++)
            for (ptrdiff_t j = 0; j < size; j++) y[j] += x[i] * m[i * size + j];
    }
}

static void FN(add_gated)(void *y_, const void *gate_, const void *x_, ptrdiff_t begin, ptrdiff_t end)
{
    for (ptrdiff_t i = begin; i < end; i += LANES) {
        const ptrdiff_t n = end - i;
        REAL *y = (REAL *)y_ + i;
        VEC gate = FN(get)((const REAL *)gate_ + i, n), x = FN(get)((const REAL *)x_ + i, n);
        FN(put)(y, FN(get)(y, n) + FN(sigmoid)(gate) * x, n);
    }
}

static void FN(add_scaled)(void *y_, const void *gate_, const void *x_, ptrdiff_t begin, ptrdiff_t end)
{
    REAL *y = y_;
    const REAL *gate = gate_, *x = x_;
    for (ptrdiff_t i = begin; i < end; i++) y[i] += gate[i] * x[i];
}

static void FN(add)(void *y_, const void *x_, ptrdiff_t begin, ptrdiff_t end)
{
    REAL *y = y_;
    const REAL *x = x_;
    for (ptrdiff_t i = begin; i < end; i++) y[i] += x[i];
}

static void FN(multiply)(void *x_, double factor, ptrdiff_t begin, ptrdiff_t end)
{
    REAL *x = x_;
    for (ptrdiff_t i = begin; i < end; i++) x[i] *= (REAL)factor;
}

static int FN(all_finite)(const void *x_, ptrdiff_t n)
{
    const REAL *x = x_;
    int bad = 0;
    /* x - x is 0 if x is finite, else NaN. No early exit, so that the compiler vectorizes the loop. */
    for (ptrdiff_t i = 0; i < n; i++) bad |= !(x[i] - x[i] == 0);
    return !bad;
}

#undef LANES
#undef FN
