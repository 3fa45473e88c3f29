/* Backward pass of the WKV of RWKV-7, for one type of activations and one instruction set: one head of one sequence.
 *
 * The forward pass runs again and keeps the state at the start of each segment of tokens. Then, from the last segment to
 * the first, the states within the segment are computed again, a few value rows at a time, and the gradient D of the
 * state goes back through them:
 *   D += d_y r^T;  d_r = S_t^T d_y;  d_decay = sum over rows of D * S_(t-1);  d_key = D^T v;  d_v = D key
 *   d_replacement = D^T removed;  d_removed = D replacement;  d_removal = S_(t-1)^T d_removed
 *   D = D diag(decay) + d_removed removal^T */
#include "wkv/wkv7_gradient.h"

/* Back through one token for n rows. `before` and `after` are the rows' states around it, d is D, `sums` the gradients
 * of the vectors that all rows share, which are added to, as is d_v. */
static inline __attribute__((always_inline)) void FN(wkv7_rows_gradient)(
    const FN(wkv7_shared) *s, const FN(wkv7_shared) *sums, const REAL *before, const REAL *after, REAL *d,
    const REAL *v, const REAL *removed, const REAL *d_y, REAL *d_v, ptrdiff_t size, int n)
{
    const VEC zero = {0};
    VEC values[RK_GRADIENT_ROWS], removals[RK_GRADIENT_ROWS];
    VEC d_ys[RK_GRADIENT_ROWS], vs[RK_GRADIENT_ROWS], all_removed[RK_GRADIENT_ROWS]; /* broadcast once */
    REAL d_values[RK_GRADIENT_ROWS], d_removed[RK_GRADIENT_ROWS];
    for (int r = 0; r < n; r++) {
        values[r] = removals[r] = zero;
        d_ys[r] = zero + d_y[r], vs[r] = zero + v[r], all_removed[r] = zero + removed[r];
    }
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const VEC receptance = FN(load)(s->receptance + i), key = FN(load)(s->key + i);
        const VEC replacement = FN(load)(s->replacement + i);
        VEC d_receptance = FN(load)(sums->receptance + i), d_decay = FN(load)(sums->decay + i);
        VEC d_key = FN(load)(sums->key + i), d_replacement = FN(load)(sums->replacement + i);
        for (int r = 0; r < n; r++) {
            const VEC row = VEC_FMA(d_ys[r], receptance, FN(get)(d + r * size + i, size - i));
            FN(put)(d + r * size + i, row, size - i);
            d_receptance = VEC_FMA(d_ys[r], FN(get)(after + r * size + i, size - i), d_receptance);
            d_decay = VEC_FMA(row, FN(get)(before + r * size + i, size - i), d_decay);
            d_key = VEC_FMA(vs[r], row, d_key);
            d_replacement = VEC_FMA(all_removed[r], row, d_replacement);
            values[r] = VEC_FMA(row, key, values[r]);
            removals[r] = VEC_FMA(row, replacement, removals[r]);
        }
        memcpy(sums->receptance + i, &d_receptance, sizeof d_receptance);
        memcpy(sums->decay + i, &d_decay, sizeof d_decay);
        memcpy(sums->key + i, &d_key, sizeof d_key);
        memcpy(sums->replacement + i, &d_replacement, sizeof d_replacement);
    }
    VEC_SUMS(values, n, d_values);
    VEC_SUMS(removals, n, d_removed);
    for (int r = 0; r < n; r++) {
        d_v[r] += d_values[r];
        d_ys[r] = zero + d_removed[r]; /* from here on that of `removed` */
    }
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const VEC decay = FN(load)(s->decay + i), removal = FN(load)(s->removal + i);
        VEC d_removal = FN(load)(sums->removal + i);
        for (int r = 0; r < n; r++) {
            d_removal = VEC_FMA(d_ys[r], FN(get)(before + r * size + i, size - i), d_removal);
            const VEC row = FN(get)(d + r * size + i, size - i) * decay;
            FN(put)(d + r * size + i, VEC_FMA(d_ys[r], removal, row), size - i);
        }
        memcpy(sums->removal + i, &d_removal, sizeof d_removal);
    }
}

/* n rows over the tokens of one segment. `states` has space for the rows' states before and after each token; `start`
 * and d are the rows' state before the segment, and D. */
static inline __attribute__((always_inline)) void FN(wkv7_segment_rows)(
    const rk_wkv7_gradient *p, const FN(wkv7_shared) *shared, const FN(wkv7_shared) *sums, ptrdiff_t at,
    ptrdiff_t tokens, const REAL *start, REAL *d, REAL *states, REAL *removed, ptrdiff_t size, const int n)
{
    const ptrdiff_t stride = p->forward.heads.count * p->forward.heads.size;
    const REAL *v = (const REAL *)p->forward.v_used + at, *d_y = (const REAL *)p->forward.heads.y + at;
    REAL *d_v = (REAL *)p->dv + at;
    memcpy(states, start, (size_t)(n * size) * sizeof(REAL));
    for (ptrdiff_t t = 0; t < tokens; t++) {
        REAL *state = states + t * n * size;
        FN(wkv7_rows)(&shared[t], v + t * stride, state, state + n * size, removed + t * n, NULL, size, n);
    }
    for (ptrdiff_t t = tokens - 1; t >= 0; t--) {
        const REAL *state = states + t * n * size;
        FN(wkv7_rows_gradient)(&shared[t], &sums[t], state, state + n * size, d, v + t * stride, removed + t * n,
                               d_y + t * stride, d_v + t * stride, size, n);
    }
}

/* Replace y by its gradient, and `bonus` by its own; set d_g, and d_v to the part that does not go through the state:
 *   result = (GroupNorm(y) + bonus * v) * g */
static void FN(wkv7_finish_gradient)(const rk_wkv7_gradient *p, ptrdiff_t t, ptrdiff_t head, REAL *sums)
{
    const rk_heads *heads = &p->forward.heads;
    const ptrdiff_t size = heads->size, width = heads->count * size, c = head * size, at = t * width + c;
    const REAL *weight = (const REAL *)heads->norm_weight + c, *bias = (const REAL *)heads->norm_bias + c;
    const REAL *v = (const REAL *)p->forward.v_used + at, *g = (const REAL *)p->forward.g + at;
    const REAL *d_y = (const REAL *)p->dy + at;
    REAL *bonus = (REAL *)p->forward.bonus + t * heads->count + head, *y = (REAL *)heads->y + at;
    REAL *d_v = (REAL *)p->dv + at, *d_g = (REAL *)p->dg + at, mean, scale;
    VEC d_bonus = {0};
    FN(head_moments)(y, size, heads->eps, &mean, &scale);
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const ptrdiff_t n = size - i;
        const VEC norm = (FN(get)(y + i, n) - mean) * scale * FN(get)(weight + i, n) + FN(get)(bias + i, n);
        const VEC value = FN(get)(v + i, n), d = FN(get)(d_y + i, n), d_norm = d * FN(get)(g + i, n);
        FN(put)(d_g + i, d * (norm + *bonus * value), n);
        FN(put)(d_v + i, d_norm, n); /* for now */
        d_bonus = VEC_FMA(d_norm, value, d_bonus);
    }
    FN(head_norm_gradient)(y, d_v, size, mean, scale, weight, sums + RK_WKV7_NORM_WEIGHT * width,
                           sums + RK_WKV7_NORM_BIAS * width);
    for (ptrdiff_t i = 0; i < size; i += LANES) FN(put)(d_v + i, *bonus * FN(get)(d_v + i, size - i), size - i);
    *bonus = VEC_SUM(d_bonus);
}

/* From the gradients of the shared vectors, which are overwritten, to those of the activations of one token. */
static void FN(wkv7_share_gradient)(const rk_wkv7_gradient *p, ptrdiff_t t, ptrdiff_t head,
                                    const FN(wkv7_shared) *s, const FN(wkv7_shared) *d, REAL *sums)
{
    const rk_wkv7 *f = &p->forward;
    const ptrdiff_t size = f->heads.size, width = f->heads.count * size, c = head * size, at = t * width + c;
    const REAL *k = (const REAL *)f->k + at, *w = (const REAL *)f->w + at, *a = (const REAL *)f->a + at;
    const REAL *w0 = (const REAL *)f->w0 + c, *a0 = (const REAL *)f->a0 + c, *r_k = (const REAL *)f->r_k + c;
    const REAL *k_k = (const REAL *)f->k_k + c, *k_a = (const REAL *)f->k_a + c;
    const REAL d_bonus = ((const REAL *)f->bonus)[t * f->heads.count + head];
    const VEC zero = {0}, one = zero + (REAL)1;
    VEC squares = {0}, along = {0};
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const ptrdiff_t n = size - i;
        const VEC receptance = FN(load)(s->receptance + i), key = FN(load)(s->key + i), weight = FN(get)(r_k + i, n);
        /* bonus = sum r * key * r_k */
        VEC d_key = FN(load)(d->key + i);
        FN(put)((REAL *)p->dr + at + i, VEC_FMA(d_bonus * key, weight, FN(load)(d->receptance + i)), n);
        FN(add_product)(sums + RK_WKV7_R_K * width + i, d_bonus * receptance, key, n);
        d_key = VEC_FMA(d_bonus * receptance, weight, d_key);
        /* decay = exp(-e^(-1/2) sigmoid(w0 + w)) */
        const VEC gate = FN(sigmoid)(FN(get)(w0 + i, n) + FN(get)(w + i, n));
        const VEC d_w = FN(load)(d->decay + i) * FN(load)(s->decay + i) * gate * (one - gate)
                        * (REAL)-0.60653065971263342;
        FN(put)((REAL *)p->dw + at + i, d_w, n);
        FN(add_product)(sums + RK_WKV7_W0 * width + i, d_w, one, n);
        /* key = k * (1 + (rate - 1) * k_a);  replacement = kk * rate;  removal = -kk */
        const VEC rate = FN(sigmoid)(FN(get)(a0 + i, n) + FN(get)(a + i, n));
        const VEC own = FN(get)(k + i, n), factor = FN(get)(k_a + i, n), kk = -FN(load)(s->removal + i);
        const VEC d_replacement = FN(load)(d->replacement + i), d_kk = d_replacement * rate - FN(load)(d->removal + i);
        const VEC d_a = (d_key * own * factor + d_replacement * kk) * rate * (one - rate);
        FN(put)((REAL *)p->da + at + i, d_a, n);
        FN(add_product)(sums + RK_WKV7_A0 * width + i, d_a, one, n);
        FN(add_product)(sums + RK_WKV7_K_A * width + i, d_key * own, rate - one, n);
        FN(put)((REAL *)p->dk + at + i, d_key * (one + (rate - one) * factor), n);
        memcpy(d->removal + i, &d_kk, sizeof d_kk);
        /* kk = q / max(|q|, 1e-12),  q = k * k_k */
        const VEC q = own * FN(get)(k_k + i, n);
        squares = VEC_FMA(q, q, squares);
        along = VEC_FMA(kk, d_kk, along);
    }
    const REAL norm = SQRT(VEC_SUM(squares));
    const int clamped = norm <= (REAL)1e-12;
    const REAL scale = (REAL)1 / (clamped ? (REAL)1e-12 : norm), slope = clamped ? 0 : VEC_SUM(along);
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const ptrdiff_t n = size - i;
        const VEC kk = -FN(load)(s->removal + i), d_q = (FN(load)(d->removal + i) - kk * slope) * scale;
        FN(add_product)((REAL *)p->dk + at + i, d_q, FN(get)(k_k + i, n), n);
        FN(add_product)(sums + RK_WKV7_K_K * width + i, d_q, FN(get)(k + i, n), n);
    }
}

/* From d_v, the gradient of the values that the state takes up, to those of v, v_mix and v_first:
 *   v_used = v + (v_first - v) * sigmoid(v0 + v_mix), in the first layer v_used = v_first = v */
static void FN(wkv7_values_gradient)(const rk_wkv7_gradient *p, ptrdiff_t at, ptrdiff_t c, REAL *sums)
{
    const rk_wkv7 *f = &p->forward;
    const ptrdiff_t size = f->heads.size, width = f->heads.count * size;
    const VEC zero = {0}, one = zero + (REAL)1;
    REAL *d_v = (REAL *)p->dv + at, *d_first = (REAL *)p->dv_first + at;
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const ptrdiff_t n = size - i;
        const VEC d = FN(get)(d_v + i, n);
        if (f->v_mix == NULL) {
            FN(put)(d_v + i, d + FN(get)(d_first + i, n), n);
            continue;
        }
        const VEC gate = FN(sigmoid)(FN(get)((const REAL *)f->v0 + c + i, n) + FN(get)((const REAL *)f->v_mix + at + i, n));
        const VEC change = FN(get)((const REAL *)f->v_first + at + i, n) - FN(get)((const REAL *)f->v + at + i, n);
        const VEC d_mix = d * change * gate * (one - gate);
        FN(put)(d_v + i, d * (one - gate), n);
        FN(add_product)(d_first + i, d, gate, n);
        FN(put)((REAL *)p->dv_mix + at + i, d_mix, n);
        FN(add_product)(sums + RK_WKV7_V0 * width + i, d_mix, one, n);
    }
}

static void FN(wkv7_gradient)(const rk_heads *heads, ptrdiff_t first, ptrdiff_t tokens, ptrdiff_t head,
                              const char *read, char *d_state, void *sums_, void *scratch)
{
    const rk_wkv7_gradient *p = (const rk_wkv7_gradient *)heads;
    const ptrdiff_t size = heads->size, c = head * size, stride = heads->count * size, block = size * size;
    const ptrdiff_t padded = rk_padded_head(size), vectors = padded * RK_WKV7_VECTORS;
    const ptrdiff_t length = rk_segment_tokens(tokens), segments = (tokens + length - 1) / length;
    const REAL *initial = (const REAL *)(read + heads->kv) + c * size;
    REAL *d = (REAL *)(d_state + heads->kv) + c * size, *sums = (REAL *)sums_ + c;
    REAL *ends = scratch;                               /* the state after each segment */
    REAL *buffers = ends + segments * block;            /* the shared vectors of each token of a segment */
    REAL *gradients = buffers + length * vectors;       /* and their gradients */
    REAL *states = gradients + length * vectors;        /* of a few rows, before and after each token of a segment */
    REAL *removed = states + (length + 1) * RK_GRADIENT_ROWS * size;
    FN(wkv7_shared) shared[RK_MOST_SEGMENT], d_shared[RK_MOST_SEGMENT];

    for (ptrdiff_t v = 0; v < RK_WKV7_SUMS; v++) memset(sums + v * stride, 0, (size_t)size * sizeof(REAL));
    for (ptrdiff_t s = 0; s < segments; s++) {
        const ptrdiff_t from = s * length, count = tokens - from < length ? tokens - from : length;
        FN(wkv7_head)(&p->forward, first + from, count, head, s == 0 ? initial : ends + (s - 1) * block,
                      ends + s * block, 0, size, NULL, buffers);
    }
    for (ptrdiff_t t = first; t < first + tokens; t++) FN(wkv7_finish_gradient)(p, t, head, sums);
    for (ptrdiff_t s = segments - 1; s >= 0; s--) {
        const ptrdiff_t from = first + s * length, last = first + tokens;
        const ptrdiff_t count = last - from < length ? last - from : length, at = from * stride + c;
        const REAL *start = s == 0 ? initial : ends + (s - 1) * block;
        for (ptrdiff_t t = 0; t < count; t++) {
            shared[t] = FN(wkv7_vectors)(buffers + t * vectors, padded);
            d_shared[t] = FN(wkv7_vectors)(gradients + t * vectors, padded);
            FN(wkv7_share)(&p->forward, at + t * stride, c, &shared[t]);
        }
        ptrdiff_t row = 0;
        for (; row + RK_GRADIENT_ROWS <= size; row += RK_GRADIENT_ROWS) {
            if (RK_IS_F32 && size == 64)
                FN(wkv7_segment_rows)(p, shared, d_shared, at + row, count, start + row * 64, d + row * 64, states,
                                      removed, 64, RK_GRADIENT_ROWS);
            else
                FN(wkv7_segment_rows)(p, shared, d_shared, at + row, count, start + row * size, d + row * size, states,
                                      removed, size, RK_GRADIENT_ROWS);
        }
        for (; row < size; row++)
            FN(wkv7_segment_rows)(p, shared, d_shared, at + row, count, start + row * size, d + row * size, states,
                                  removed, size, 1);
        for (ptrdiff_t t = 0; t < count; t++) {
            FN(wkv7_share_gradient)(p, from + t, head, &shared[t], &d_shared[t], sums);
            FN(wkv7_values_gradient)(p, at + t * stride, c, sums);
        }
    }
}
