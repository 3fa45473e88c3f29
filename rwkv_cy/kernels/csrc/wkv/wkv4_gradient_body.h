/* The backward pass of the WKV of RWKV-4, for one type of activations and one instruction set. */
#include "wkv/wkv4_gradient.h"

/* Backward through one vector of channels of one sequence; `states` holds aa, bb, pp before each token.
 * The output does not depend on p, so that its gradient with respect to p is zero and is left out. */
static void FN(wkv4_vector_gradient)(const rk_wkv4_gradient *p, ptrdiff_t first, ptrdiff_t tokens, char *d_state,
                                     ptrdiff_t i, ptrdiff_t n, const VEC *states)
{
    const rk_wkv4 *f = &p->forward;
    const ptrdiff_t width = f->channels.width;
    const VEC zero = {0}, one = zero + (REAL)1;
    const VEC w = FN(get)((const REAL *)f->w + i, n), u = FN(get)((const REAL *)f->u + i, n);
    REAL *d_aa_ = (REAL *)(d_state + f->aa) + i, *d_bb_ = (REAL *)(d_state + f->bb) + i;
    REAL *d_pp_ = (REAL *)(d_state + f->pp) + i;
    VEC d_aa = FN(get)(d_aa_, n), d_bb = FN(get)(d_bb_, n), d_pp = FN(get)(d_pp_, n), d_w = zero, d_u = zero;
    for (ptrdiff_t t = tokens - 1; t >= 0; t--) {
        const ptrdiff_t at = (first + t) * width + i;
        const VEC k = FN(get)((const REAL *)f->k + at, n), v = FN(get)((const REAL *)f->v + at, n);
        const VEC gate = FN(sigmoid)(FN(get)((const REAL *)f->r + at, n)), dy = FN(get)((const REAL *)p->dy + at, n);
        const VEC aa = states[3 * t], bb = states[3 * t + 1], pp = states[3 * t + 2];
        VEC e1, e2;
        /* p = max(pp + w, k);  aa' = e1 aa + e2 v;  bb' = e1 bb + e2;  e1 = e^(pp+w-p), e2 = e^(k-p) */
        FN(exps)(pp + w, k, &e1, &e2);
        const VEC of_past = e1 * (aa * d_aa + bb * d_bb), of_key = e2 * (v * d_aa + d_bb);
        const VEC of_max = d_pp - of_past - of_key; /* goes to the larger of pp + w and k */
        const VEC past = of_past + VEC_WHERE(pp + w, k, of_max, zero);
        VEC d_k = of_key + VEC_WHERE(pp + w, k, zero, of_max), d_v = e2 * d_aa;
        d_w += past;
        d_pp = past;
        d_aa *= e1;
        d_bb *= e1;
        /* y = sigmoid(r) a / b;  a = e1 aa + e2 v;  b = e1 bb + e2;  e1 = e^(pp-p), e2 = e^(u+k-p) */
        FN(exps)(pp, u + k, &e1, &e2);
        const VEC b = e1 * bb + e2, wkv = (e1 * aa + e2 * v) / b;
        const VEC d_a = dy * gate / b, d_b = -d_a * wkv;
        const VEC d_now = e2 * (v * d_a + d_b);
        FN(put)((REAL *)p->dr + at, dy * wkv * gate * (one - gate), n);
        FN(put)((REAL *)p->dk + at, d_k + d_now, n);
        FN(put)((REAL *)p->dv + at, d_v + e2 * d_a, n);
        d_u += d_now;
        d_pp += e1 * (aa * d_a + bb * d_b);
        d_aa += e1 * d_a;
        d_bb += e1 * d_b;
    }
    FN(put)(d_aa_, d_aa, n);
    FN(put)(d_bb_, d_bb, n);
    FN(put)(d_pp_, d_pp, n);
    if (p->dw != NULL) FN(put)((REAL *)p->dw + i, FN(get)((const REAL *)p->dw + i, n) + d_w, n);
    if (p->du != NULL) FN(put)((REAL *)p->du + i, FN(get)((const REAL *)p->du + i, n) + d_u, n);
}

static void FN(wkv4_gradient)(const rk_channels *channels, ptrdiff_t first, ptrdiff_t tokens, const char *read,
                              char *d_state, ptrdiff_t begin, ptrdiff_t end, void *scratch)
{
    const rk_wkv4_gradient *p = (const rk_wkv4_gradient *)channels;
    const rk_wkv4 *f = &p->forward;
    VEC *states = scratch;
    for (ptrdiff_t i = begin; i < end; i += LANES) {
        const ptrdiff_t n = end - i;
        const VEC w = FN(get)((const REAL *)f->w + i, n);
        VEC aa = FN(get)((const REAL *)(read + f->aa) + i, n), bb = FN(get)((const REAL *)(read + f->bb) + i, n);
        VEC pp = FN(get)((const REAL *)(read + f->pp) + i, n);
        for (ptrdiff_t t = 0; t < tokens; t++) {
            const ptrdiff_t at = (first + t) * f->channels.width + i;
            const VEC k = FN(get)((const REAL *)f->k + at, n), v = FN(get)((const REAL *)f->v + at, n);
            VEC e1, e2;
            states[3 * t] = aa, states[3 * t + 1] = bb, states[3 * t + 2] = pp;
            pp = FN(exps)(pp + w, k, &e1, &e2);
            aa = e1 * aa + e2 * v;
            bb = e1 * bb + e2;
        }
        FN(wkv4_vector_gradient)(p, first, tokens, d_state, i, n, states);
    }
}
