/* Backward pass of the WKV of RWKV-6 and RWKV-5, for one type of activations and one instruction set: one head of one
 * sequence.
 *
 * As in RWKV-7, the forward pass runs again and keeps the state at the start of each segment of tokens; then the
 * gradient D of the state goes back through the states of each segment:
 *   d_decay = sum over rows of D * S_(t-1);  d_k = D^T v;  d_v = D k;  d_r = S_(t-1)^T d_y;  D = D diag(decay) + d_y r^T
 */
#include "wkv/wkv6_gradient.h"

/* Gradients of the vectors of one token that all rows share, each [size], zero-padded to whole SIMD vectors. */
typedef struct {
    REAL *decay, *k, *r;
} FN(wkv6_sums);

/* Back through one token for n rows. `before` is the rows' state before it, d is D; `sums` and d_v are added to. */
static inline __attribute__((always_inline)) void FN(wkv6_rows_gradient)(
    const REAL *decay, const REAL *k, const REAL *r, const FN(wkv6_sums) *sums, const REAL *before, REAL *d,
    const REAL *v, const REAL *d_y, REAL *d_v, ptrdiff_t size, int n)
{
    const VEC zero = {0};
    VEC values[RK_GRADIENT_ROWS];
    REAL d_values[RK_GRADIENT_ROWS];
    for (int row = 0; row < n; row++) values[row] = zero;
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const VEC w = FN(load)(decay + i), key = FN(get)(k + i, size - i), receptance = FN(get)(r + i, size - i);
        VEC d_decay = FN(load)(sums->decay + i), d_k = FN(load)(sums->k + i), d_r = FN(load)(sums->r + i);
        for (int row = 0; row < n; row++) {
            const VEC state = FN(get)(before + row * size + i, size - i), own = FN(get)(d + row * size + i, size - i);
            d_decay = VEC_FMA(own, state, d_decay);
            d_k = VEC_FMA(zero + v[row], own, d_k);
            d_r = VEC_FMA(zero + d_y[row], state, d_r);
            values[row] = VEC_FMA(own, key, values[row]);
            FN(put)(d + row * size + i, VEC_FMA(zero + d_y[row], receptance, own * w), size - i);
        }
        memcpy(sums->decay + i, &d_decay, sizeof d_decay);
        memcpy(sums->k + i, &d_k, sizeof d_k);
        memcpy(sums->r + i, &d_r, sizeof d_r);
    }
    VEC_SUMS(values, n, d_values);
    for (int row = 0; row < n; row++) d_v[row] += d_values[row];
}

/* n rows over the tokens of one segment. `states` has space for the rows' states before and after each token; `start`
 * and d are the rows' state before the segment, and D. The rows begin at `row` of the head whose first element is `at`;
 * decays and sums are [tokens]. */
static inline __attribute__((always_inline)) void FN(wkv6_segment_rows)(
    const rk_wkv6_gradient *p, REAL *const *decays, const FN(wkv6_sums) *sums, ptrdiff_t at, ptrdiff_t row,
    ptrdiff_t tokens, const REAL *start, REAL *d, REAL *states, ptrdiff_t size, int n)
{
    const ptrdiff_t stride = p->forward.heads.count * p->forward.heads.size;
    const REAL *v = (const REAL *)p->forward.v + at + row, *d_y = (const REAL *)p->forward.heads.y + at + row;
    const REAL *k = (const REAL *)p->forward.k + at, *r = (const REAL *)p->forward.r + at;
    REAL *d_v = (REAL *)p->dv + at + row;
    memcpy(states, start, (size_t)(n * size) * sizeof(REAL));
    for (ptrdiff_t t = 0; t < tokens; t++) {
        REAL *state = states + t * n * size;
        FN(wkv6_rows)(decays[t], k + t * stride, r + t * stride, v + t * stride, 0, state, state + n * size, NULL, NULL,
                      size, n);
    }
    for (ptrdiff_t t = tokens - 1; t >= 0; t--)
        FN(wkv6_rows_gradient)(decays[t], k + t * stride, r + t * stride, &sums[t], states + t * n * size, d,
                               v + t * stride, d_y + t * stride, d_v + t * stride, size, n);
}

/* Replace y by its gradient, and set d_g:
 *   result = GroupNorm(y) * g sigmoid(g), or without the gate */
static void FN(wkv6_finish_gradient)(const rk_wkv6_gradient *p, ptrdiff_t t, ptrdiff_t head, REAL *sums)
{
    const rk_heads *heads = &p->forward.heads;
    const ptrdiff_t size = heads->size, width = heads->count * size, c = head * size, at = t * width + c;
    const REAL *weight = (const REAL *)heads->norm_weight + c, *bias = (const REAL *)heads->norm_bias + c;
    const REAL *g = p->forward.g == NULL ? NULL : (const REAL *)p->forward.g + at, *d_norm = (const REAL *)p->dy + at;
    REAL *y = (REAL *)heads->y + at, *d_v = (REAL *)p->dv + at, mean, scale;
    FN(head_moments)(y, size, heads->eps, &mean, &scale);
    for (ptrdiff_t i = 0; g != NULL && i < size; i += LANES) {
        const ptrdiff_t n = size - i;
        const VEC norm = (FN(get)(y + i, n) - mean) * scale * FN(get)(weight + i, n) + FN(get)(bias + i, n);
        const VEC d = FN(get)(d_norm + i, n), x = FN(get)(g + i, n), gate = FN(sigmoid)(x);
        FN(put)((REAL *)p->dg + at + i, d * norm * gate * ((REAL)1 + x * ((REAL)1 - gate)), n);
        FN(put)(d_v + i, d * x * gate, n); /* the gradient of `norm`, for now */
    }
    FN(head_norm_gradient)(y, g == NULL ? d_norm : d_v, size, mean, scale, weight, sums + RK_WKV6_NORM_WEIGHT * width,
                           sums + RK_WKV6_NORM_BIAS * width);
    memset(d_v, 0, (size_t)size * sizeof(REAL));
}

/* From the gradients of the shared vectors to those of the activations of one token, with the part of the bonus:
 *   y = S_(t-1) r + (sum r u k) v;  decay = exp(-e^(time_decay + w)), or constant */
static void FN(wkv6_share_gradient)(const rk_wkv6_gradient *p, ptrdiff_t at, ptrdiff_t c, const REAL *decay,
                                    const FN(wkv6_sums) *d, REAL *sums)
{
    const rk_wkv6 *f = &p->forward;
    const ptrdiff_t size = f->heads.size, width = f->heads.count * size;
    const REAL *r = (const REAL *)f->r + at, *k = (const REAL *)f->k + at, *v = (const REAL *)f->v + at;
    const REAL *u = (const REAL *)f->u + c, *d_y = (const REAL *)f->heads.y + at;
    const REAL bonus = FN(wkv6_bonus)(r, u, k, size), d_bonus = FN(dot)(v, d_y, size);
    const VEC zero = {0}, one = zero + (REAL)1;
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const ptrdiff_t n = size - i;
        const VEC receptance = FN(get)(r + i, n), key = FN(get)(k + i, n), weight = d_bonus * FN(get)(u + i, n);
        FN(put)((REAL *)p->dr + at + i, VEC_FMA(weight, key, FN(load)(d->r + i)), n);
        FN(put)((REAL *)p->dk + at + i, VEC_FMA(weight, receptance, FN(load)(d->k + i)), n);
        FN(add_product)(sums + RK_WKV6_U * width + i, d_bonus * receptance, key, n);
        FN(add_product)((REAL *)p->dv + at + i, zero + bonus, FN(get)(d_y + i, n), n);
        VEC d_decay = FN(load)(d->decay + i);
        if (f->w != NULL) {
            /* 0 where the decay is 0, because the inner exponential may be infinite */
            const VEC w = FN(load)(decay + i);
            const VEC x = FN(get)((const REAL *)f->decay + c + i, n) + FN(get)((const REAL *)f->w + at + i, n);
            d_decay = VEC_WHERE(w, zero, -d_decay * w * VEC_EXP(x), zero);
            FN(put)((REAL *)p->dw + at + i, d_decay, n);
        }
        FN(add_product)(sums + RK_WKV6_DECAY * width + i, d_decay, one, n);
    }
}

static void FN(wkv6_gradient)(const rk_heads *heads, ptrdiff_t first, ptrdiff_t tokens, ptrdiff_t head,
                              const char *read, char *d_state, void *part, void *scratch)
{
    const rk_wkv6_gradient *p = (const rk_wkv6_gradient *)heads;
    const ptrdiff_t size = heads->size, c = head * size, stride = heads->count * size, block = size * size;
    const ptrdiff_t padded = rk_padded_head(size), last = first + tokens;
    const ptrdiff_t length = rk_segment_tokens(tokens), segments = (tokens + length - 1) / length;
    const REAL *initial = (const REAL *)(read + heads->kv) + c * size;
    REAL *d = (REAL *)(d_state + heads->kv) + c * size, *sums = (REAL *)part + c;
    REAL *ends = scratch;                     /* the state after each segment */
    REAL *buffers = ends + segments * block;  /* the vectors of each token of a segment */
    REAL *states = buffers + length * padded * RK_WKV6_GRADIENT_VECTORS; /* of a few rows, around each token */
    REAL *decays[RK_MOST_SEGMENT];
    FN(wkv6_sums) d_shared[RK_MOST_SEGMENT];

    for (ptrdiff_t v = 0; v < RK_WKV6_SUMS; v++) memset(sums + v * stride, 0, (size_t)size * sizeof(REAL));
    for (ptrdiff_t s = 0; s < segments; s++) {
        const ptrdiff_t from = first + s * length, count = last - from < length ? last - from : length;
        FN(wkv6_head)(&p->forward, from, count, head, s == 0 ? initial : ends + (s - 1) * block, ends + s * block, 0,
                      size, NULL, buffers);
    }
    for (ptrdiff_t t = first; t < last; t++) FN(wkv6_finish_gradient)(p, t, head, sums);
    for (ptrdiff_t s = segments - 1; s >= 0; s--) {
        const ptrdiff_t from = first + s * length, at = from * stride + c;
        const ptrdiff_t count = last - from < length ? last - from : length;
        const REAL *start = s == 0 ? initial : ends + (s - 1) * block;
        memset(buffers, 0, (size_t)(length * padded * RK_WKV6_GRADIENT_VECTORS) * sizeof(REAL));
        for (ptrdiff_t t = 0; t < count; t++) {
            REAL *own = buffers + t * padded * RK_WKV6_GRADIENT_VECTORS;
            decays[t] = own;
            d_shared[t] = (FN(wkv6_sums)){own + padded, own + 2 * padded, own + 3 * padded};
            FN(wkv6_decay)(&p->forward, at + t * stride, c, own);
        }
        ptrdiff_t row = 0;
        for (; row + RK_GRADIENT_ROWS <= size; row += RK_GRADIENT_ROWS) {
            if (RK_IS_F32 && size == 64)
                FN(wkv6_segment_rows)(p, decays, d_shared, at, row, count, start + row * 64, d + row * 64, states, 64,
                                      RK_GRADIENT_ROWS);
            else
                FN(wkv6_segment_rows)(p, decays, d_shared, at, row, count, start + row * size, d + row * size, states,
                                      size, RK_GRADIENT_ROWS);
        }
        if (row < size)
            FN(wkv6_segment_rows)(p, decays, d_shared, at, row, count, start + row * size, d + row * size, states, size,
                                  (int)(size - row));
        for (ptrdiff_t t = 0; t < count; t++)
            FN(wkv6_share_gradient)(p, at + t * stride, c, decays[t], &d_shared[t], sums);
    }
}
