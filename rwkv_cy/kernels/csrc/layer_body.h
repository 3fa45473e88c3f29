/* What a layer does besides its matrices, for one type of activations and one instruction set. */

#define LANES ((ptrdiff_t)(sizeof(VEC) / sizeof(REAL)))
#define FN(name) RK_CAT(name, SUFFIX)

static inline REAL FN(sigmoid)(REAL x)
{
    return (REAL)1 / ((REAL)1 + EXP(-x));
}

/* Sum over the width, and over squared distances from `center` if `squared`. */
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

static void FN(token_shift)(const void *x_, const void *last, const void *mix_, ptrdiff_t width, void *y_,
                            ptrdiff_t begin, ptrdiff_t end)
{
    const REAL *mix = mix_;
    for (ptrdiff_t t = begin; t < end; t++) {
        const REAL *x = (const REAL *)x_ + t * width;
        const REAL *prev = t == 0 ? (const REAL *)last : x - width;
        REAL *y = (REAL *)y_ + t * width;
        /* y = x * mix + prev * (1 - mix) */
        for (ptrdiff_t i = 0; i < width; i++) y[i] = x[i] * mix[i] + prev[i] * ((REAL)1 - mix[i]);
    }
}

static void FN(wkv4)(const void *w_, const void *u_, const void *k_, const void *v_, const void *r_, ptrdiff_t tokens,
                     ptrdiff_t width, void *aa_, void *bb_, void *pp_, void *y_, ptrdiff_t begin, ptrdiff_t end)
{
    const REAL *restrict w = w_, *restrict u = u_;
    REAL *restrict aa = aa_, *restrict bb = bb_, *restrict pp = pp_;
    for (ptrdiff_t t = 0; t < tokens; t++) {
        const REAL *restrict k = (const REAL *)k_ + t * width;
        const REAL *restrict v = (const REAL *)v_ + t * width;
        const REAL *restrict r = (const REAL *)r_ + t * width;
        REAL *restrict y = (REAL *)y_ + t * width;
        for (ptrdiff_t i = begin; i < end; i++) {
            /* p = max(pp, u + k);  wkv = (e^(pp-p) aa + e^(u+k-p) v) / (e^(pp-p) bb + e^(u+k-p)) */
            REAL uk = u[i] + k[i];
            REAL p = pp[i] > uk ? pp[i] : uk;
            REAL e1 = EXP(pp[i] - p);
            REAL e2 = EXP(uk - p);
            REAL wkv = (e1 * aa[i] + e2 * v[i]) / (e1 * bb[i] + e2);
            y[i] = FN(sigmoid)(r[i]) * wkv;
            /* p = max(pp + w, k);  aa = e^(pp+w-p) aa + e^(k-p) v;  bb = e^(pp+w-p) bb + e^(k-p);  pp = p */
            REAL wp = pp[i] + w[i];
            p = wp > k[i] ? wp : k[i];
            e1 = EXP(wp - p);
            e2 = EXP(k[i] - p);
            aa[i] = e1 * aa[i] + e2 * v[i];
            bb[i] = e1 * bb[i] + e2;
            pp[i] = p;
        }
    }
}

static void FN(relu_squared)(void *x_, ptrdiff_t begin, ptrdiff_t end)
{
    REAL *x = x_;
    /* Written so that NaN passes through, and is seen at the logits. */
    for (ptrdiff_t i = begin; i < end; i++) x[i] = x[i] <= 0 ? 0 : x[i] * x[i];
}

static void FN(add_gated)(void *y_, const void *gate_, const void *x_, ptrdiff_t begin, ptrdiff_t end)
{
    REAL *y = y_;
    const REAL *gate = gate_, *x = x_;
    for (ptrdiff_t i = begin; i < end; i++) y[i] += FN(sigmoid)(gate[i]) * x[i];
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

#undef LANES
#undef FN
