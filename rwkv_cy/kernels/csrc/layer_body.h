/* What a layer does besides its matrices, for one type of activations and one instruction set. */

#define LANES ((ptrdiff_t)(sizeof(VEC) / sizeof(REAL)))
#define FN(name) RK_CAT(name, SUFFIX)

static inline void FN(store_part)(REAL *p, VEC v, ptrdiff_t n)
{
    if (n == LANES)
        memcpy(p, &v, sizeof v);
    else
        memcpy(p, &v, (size_t)n * sizeof(REAL));
}

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

/* max(a, b), lane by lane; b where one is NaN, as `a > b ? a : b` has it. */
static inline VEC FN(larger)(VEC a, VEC b)
{
    return VEC_SELECT(a > b, a, b);
}

/* One token of one vector of channels; aa, bb, pp are moved on. */
static inline VEC FN(wkv4_step)(VEC w, VEC u, VEC k, VEC v, VEC r, VEC *aa, VEC *bb, VEC *pp)
{
    const VEC one = (VEC){0} + (REAL)1;
    /* p = max(pp, u + k);  wkv = (e^(pp-p) aa + e^(u+k-p) v) / (e^(pp-p) bb + e^(u+k-p)) */
    VEC uk = u + k;
    VEC p = FN(larger)(*pp, uk);
    VEC e1 = VEC_EXP(*pp - p);
    VEC e2 = VEC_EXP(uk - p);
    VEC wkv = (e1 * *aa + e2 * v) / (e1 * *bb + e2);
    VEC y = one / (one + VEC_EXP(-r)) * wkv;
    /* p = max(pp + w, k);  aa = e^(pp+w-p) aa + e^(k-p) v;  bb = e^(pp+w-p) bb + e^(k-p);  pp = p */
    VEC wp = *pp + w;
    p = FN(larger)(wp, k);
    e1 = VEC_EXP(wp - p);
    e2 = VEC_EXP(k - p);
    *aa = e1 * *aa + e2 * v;
    *bb = e1 * *bb + e2;
    *pp = p;
    return y;
}

static void FN(wkv4)(const void *w_, const void *u_, const void *k_, const void *v_, const void *r_, ptrdiff_t tokens,
                     ptrdiff_t width, void *aa_, void *bb_, void *pp_, void *y_, ptrdiff_t begin, ptrdiff_t end)
{
    for (ptrdiff_t i = begin; i < end; i += LANES) {
        /* Channels of the last vector that are not there are zeros, which give finite numbers that nobody stores. */
        const ptrdiff_t n = end - i < LANES ? end - i : LANES;
        const VEC w = FN(load_part)((const REAL *)w_ + i, n), u = FN(load_part)((const REAL *)u_ + i, n);
        VEC aa = FN(load_part)((REAL *)aa_ + i, n), bb = FN(load_part)((REAL *)bb_ + i, n);
        VEC pp = FN(load_part)((REAL *)pp_ + i, n);
        for (ptrdiff_t t = 0; t < tokens; t++) {
            const ptrdiff_t at = t * width + i;
            VEC k = FN(load_part)((const REAL *)k_ + at, n), v = FN(load_part)((const REAL *)v_ + at, n);
            VEC r = FN(load_part)((const REAL *)r_ + at, n);
            FN(store_part)((REAL *)y_ + at, FN(wkv4_step)(w, u, k, v, r, &aa, &bb, &pp), n);
        }
        FN(store_part)((REAL *)aa_ + i, aa, n);
        FN(store_part)((REAL *)bb_ + i, bb, n);
        FN(store_part)((REAL *)pp_ + i, pp, n);
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
