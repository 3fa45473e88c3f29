/* The backward pass of a layer's element-wise work, for one type of activations and one instruction set. */

#define LANES ((ptrdiff_t)(sizeof(VEC) / sizeof(REAL)))
#define FN(name) RK_CAT(name, SUFFIX)

/* With z = (x - mean) * scale and g = dy * weight:  dx = scale * (g - E[g] - z E[g z]) */
static void FN(layer_norm_gradient)(const void *x_, const void *weight_, double eps, const void *dy_, ptrdiff_t width,
                                    void *dx_, void *moments_, ptrdiff_t begin, ptrdiff_t end)
{
    const REAL *weight = weight_;
    for (ptrdiff_t t = begin; t < end; t++) {
        const REAL *x = (const REAL *)x_ + t * width, *dy = (const REAL *)dy_ + t * width;
        REAL *dx = (REAL *)dx_ + t * width, *moments = (REAL *)moments_ + 2 * t;
        const REAL mean = FN(total)(x, width, 0, 0) / (REAL)width;
        const REAL scale = (REAL)1 / SQRT(FN(total)(x, width, mean, 1) / (REAL)width + (REAL)eps);
        VEC sum = {0}, product = {0};
        for (ptrdiff_t i = 0; i < width; i += LANES) {
            const ptrdiff_t n = width - i;
            const VEC g = FN(get)(dy + i, n) * FN(get)(weight + i, n);
            sum += g;
            product = VEC_FMA(g, (FN(get)(x + i, n) - mean) * scale, product);
        }
        const REAL mean_g = VEC_SUM(sum) / (REAL)width, mean_gz = VEC_SUM(product) / (REAL)width;
        for (ptrdiff_t i = 0; i < width; i++)
            dx[i] += scale * (dy[i] * weight[i] - mean_g - (x[i] - mean) * scale * mean_gz);
        moments[0] = mean;
        moments[1] = scale;
    }
}

static void FN(layer_norm_parameters_gradient)(const void *x_, const void *moments_, const void *dy_, ptrdiff_t tokens,
                                               ptrdiff_t width, void *d_weight_, void *d_bias_, ptrdiff_t begin,
                                               ptrdiff_t end)
{
    const REAL *x = x_, *moments = moments_, *dy = dy_;
    for (ptrdiff_t i = begin; i < end; i += LANES) {
        const ptrdiff_t n = end - i;
        VEC d_weight = {0}, d_bias = {0};
        for (ptrdiff_t t = 0; t < tokens; t++) {
            const VEC d = FN(get)(dy + t * width + i, n);
            d_weight = VEC_FMA(d, (FN(get)(x + t * width + i, n) - moments[2 * t]) * moments[2 * t + 1], d_weight);
            d_bias += d;
        }
        if (d_weight_ != NULL) FN(put)((REAL *)d_weight_ + i, FN(get)((REAL *)d_weight_ + i, n) + d_weight, n);
        if (d_bias_ != NULL) FN(put)((REAL *)d_bias_ + i, FN(get)((REAL *)d_bias_ + i, n) + d_bias, n);
    }
}

/* One vector of channels of one token shift. Of y = x m + before (1 - m), which for a lerp has m = 1 - (mix + more):
 *   dx += d m;  d before += d (1 - m);  dm = d (x - before) */
static inline __attribute__((always_inline)) void FN(shift_vector)(const rk_shift_gradient *s, int lerped,
                                                                   ptrdiff_t offset, ptrdiff_t tokens, ptrdiff_t width,
                                                                   const REAL *x, const REAL *before, REAL *dx,
                                                                   REAL *d_before, ptrdiff_t i, ptrdiff_t n)
{
    const VEC mix = FN(get)((const REAL *)s->mix + i, n);
    const REAL *d = (const REAL *)s->d + offset;
    VEC d_mix = {0}, previous = FN(get)(before + i, n);
    REAL *to = d_before;
    for (ptrdiff_t t = 0; t < tokens; t++) {
        const ptrdiff_t at = t * width + i;
        const VEC own = FN(get)(x + at, n), g = FN(get)(d + at, n);
        VEC share = mix; /* of the token itself, or of the one before if lerped */
        if (s->more != NULL) share += FN(get)((const REAL *)s->more + offset + at, n);
        const VEC of_share = g * share, rest = g - of_share;
        const VEC change = lerped ? g * (previous - own) : g * (own - previous);
        d_mix += change;
        if (s->d_more != NULL) FN(put)((REAL *)s->d_more + offset + at, change, n);
        FN(put)(dx + at, FN(get)(dx + at, n) + (lerped ? rest : of_share), n);
        FN(put)(to + i, FN(get)(to + i, n) + (lerped ? of_share : rest), n);
        to = dx + t * width;
        previous = own;
    }
    if (s->d_mix != NULL) FN(put)((REAL *)s->d_mix + i, FN(get)((REAL *)s->d_mix + i, n) + d_mix, n);
}

static void FN(shift_gradient)(const rk_shift_gradient *shifts, int count, int lerped, const void *x,
                               const void *before, ptrdiff_t offset, ptrdiff_t tokens, ptrdiff_t width, void *dx,
                               void *d_before, ptrdiff_t begin, ptrdiff_t end)
{
    for (ptrdiff_t i = begin; i < end; i += LANES)
        for (int s = 0; s < count; s++)
            FN(shift_vector)(&shifts[s], lerped, offset, tokens, width, x, before, dx, d_before, i, end - i);
}

static void FN(gated_gradient)(const void *gate_, const void *x_, const void *dy_, void *dx_, void *d_gate_,
                               ptrdiff_t begin, ptrdiff_t end)
{
    for (ptrdiff_t i = begin; i < end; i += LANES) {
        const ptrdiff_t n = end - i;
        const VEC s = FN(sigmoid)(FN(get)((const REAL *)gate_ + i, n)), x = FN(get)((const REAL *)x_ + i, n);
        const VEC dx = FN(get)((const REAL *)dy_ + i, n) * s;
        FN(put)((REAL *)dx_ + i, dx, n);
        FN(put)((REAL *)d_gate_ + i, dx * x * ((REAL)1 - s), n);
    }
}

static void FN(relu_squared_gradient)(const void *x_, void *d_, ptrdiff_t begin, ptrdiff_t end)
{
    const REAL *x = x_;
    REAL *d = d_;
    for (ptrdiff_t i = begin; i < end; i++) d[i] *= x[i] <= 0 ? 0 : (REAL)2 * x[i];
}

/* loss = log(sum of e^x) - x[target];  dx = e^x / sum - [target] */
static double FN(cross_entropy)(void *logits, ptrdiff_t vocab_size, ptrdiff_t target, double weight, double l2_wrap)
{
    enum { TOGETHER = 1024 }; /* elements that are summed in REAL */
    REAL *x = logits;
    VEC largest_of = x[0] + (VEC){0};
    ptrdiff_t largest = 0, vectors = vocab_size / LANES * LANES;
    for (ptrdiff_t i = 0; i < vectors; i += LANES) {
        const VEC v = FN(load)(x + i);
        largest_of = VEC_WHERE(v, largest_of, v, largest_of);
    }
    REAL most = x[0];
    for (ptrdiff_t i = 0; i < LANES; i++) most = largest_of[i] > most ? largest_of[i] : most;
    for (ptrdiff_t i = vectors; i < vocab_size; i++) most = x[i] > most ? x[i] : most;
    while (largest < vocab_size - 1 && !(x[largest] == most)) largest++;
    const REAL right = x[target];
    double sum = 0;
    for (ptrdiff_t first = 0; first < vocab_size; first += TOGETHER) {
        const ptrdiff_t end = vocab_size - first < TOGETHER ? vocab_size : first + TOGETHER;
        VEC part = {0};
        ptrdiff_t i = first;
        for (; i + LANES <= end; i += LANES) {
            const VEC e = VEC_EXP(FN(load)(x + i) - most);
            memcpy(x + i, &e, sizeof e);
            part += e;
        }
        sum += VEC_SUM(part);
        for (; i < end; i++) {
            const VEC e = VEC_EXP((x[i] - most) + (VEC){0});
            x[i] = e[0];
            sum += e[0];
        }
    }
    const REAL scale = (REAL)(weight / sum);
    for (ptrdiff_t i = 0; i < vocab_size; i++) x[i] *= scale;
    x[target] -= (REAL)weight;
    x[largest] += (REAL)(l2_wrap * weight * most);
    return log(sum) + (double)most - (double)right;
}

/* m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  x = keep x - step m / (root sqrt(v) + epsilon) */
static void FN(adamw)(const rk_adamw *o, const void *gradient_, void *first_, void *second_, void *values_,
                      ptrdiff_t begin, ptrdiff_t end)
{
    const REAL *restrict gradient = gradient_;
    REAL *restrict first = first_, *restrict second = second_, *restrict values = values_;
    const REAL scale = (REAL)o->scale, beta1 = (REAL)o->beta1, beta2 = (REAL)o->beta2, epsilon = (REAL)o->epsilon;
    const REAL rest1 = (REAL)(1 - o->beta1), rest2 = (REAL)(1 - o->beta2);
    const REAL keep = (REAL)o->keep, step = (REAL)o->step, root = (REAL)o->root;
    for (ptrdiff_t i = begin; i < end; i++) {
        const REAL g = gradient[i] * scale;
        const REAL m = first[i] * beta1 + g * rest1, v = second[i] * beta2 + g * g * rest2;
        const REAL d = SQRT(v) * root + epsilon;
        first[i] = m;
        second[i] = v;
        /* d is 0 where every gradient was, if epsilon is too small for the type */
        values[i] = values[i] * keep - step * (m / (d == 0 ? (REAL)1 : d));
    }
}

static double FN(squares)(const void *x_, ptrdiff_t begin, ptrdiff_t end)
{
    enum { TOGETHER = 8 };
    const REAL *x = x_;
    double sums[TOGETHER] = {0};
    for (; begin + TOGETHER <= end; begin += TOGETHER)
        for (int j = 0; j < TOGETHER; j++) sums[j] += (double)x[begin + j] * (double)x[begin + j];
    for (; begin < end; begin++) sums[0] += (double)x[begin] * (double)x[begin];
    double sum = 0;
    for (int j = 0; j < TOGETHER; j++) sum += sums[j];
    return sum;
}

#undef LANES
#undef FN
