/* WKV of RWKV-7, for one type of activations and one instruction set. It updates rows of one head's state, token by
 * token. */
#include "wkv/wkv7.h"

#define ROW_BLOCK 8      /* rows that are reduced together */
#define ROW_GROUP 32     /* rows that are reduced before any of them is updated */
#define UPDATED 4        /* rows that are updated together: what belongs to each of them stays in registers */
#define TOKENS_AHEAD 4   /* tokens that `finish` prefetches ahead */

/* Per-token vectors that all rows of a head share, each [size], zero-padded to whole SIMD vectors. */
typedef struct {
    REAL *decay, *removal, *replacement, *key, *receptance;
} FN(wkv7_shared);

/* Compute the shared vectors of one head and token; `at` is its first element, `c` the head's first channel.
 *   decay = exp(-e^(-1/2) sigmoid(w0 + w));  a = sigmoid(a0 + a)
 *   kk = L2(k * k_k);  removal = -kk;  replacement = kk * a;  key = k * (1 + (a - 1) * k_a)
 * One step for the whole head after the other: the exponentials of a step are independent of each other. */
static inline __attribute__((always_inline)) void FN(wkv7_share_sized)(const rk_wkv7 *p, ptrdiff_t at, ptrdiff_t c,
                                                                       const FN(wkv7_shared) s, ptrdiff_t size)
{
    const REAL *k = (const REAL *)p->k + at, *w = (const REAL *)p->w + at, *a = (const REAL *)p->a + at;
    const REAL *w0 = (const REAL *)p->w0 + c, *a0 = (const REAL *)p->a0 + c;
    const REAL *k_k = (const REAL *)p->k_k + c, *k_a = (const REAL *)p->k_a + c;
    const VEC zero = {0}, one = zero + (REAL)1;
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const ptrdiff_t n = size - i;
        FN(put)(s.removal + i, FN(get)(k + i, n) * FN(get)(k_k + i, n), n);
        if (p->r != NULL) FN(put)(s.receptance + i, FN(get)((const REAL *)p->r + at + i, n), n);
    }
    const REAL norm = SQRT(FN(dot)(s.removal, s.removal, size));
    const REAL scale = (REAL)1 / (norm > (REAL)1e-12 || norm != norm ? norm : (REAL)1e-12);
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const ptrdiff_t n = size - i;
        FN(put)(s.decay + i, FN(sigmoid)(FN(get)(w0 + i, n) + FN(get)(w + i, n)), n);
    }
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const ptrdiff_t n = size - i;
        FN(put)(s.replacement + i, FN(sigmoid)(FN(get)(a0 + i, n) + FN(get)(a + i, n)), n);
    }
    for (ptrdiff_t i = 0; i < size; i += LANES)
        FN(put)(s.decay + i, VEC_EXP((REAL)-0.60653065971263342 * FN(load)(s.decay + i)), size - i);
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const ptrdiff_t n = size - i;
        const VEC rate = FN(load)(s.replacement + i), kk = FN(load)(s.removal + i) * scale;
        FN(put)(s.key + i, FN(get)(k + i, n) * (one + (rate - one) * FN(get)(k_a + i, n)), n);
        const VEC replacement = kk * rate, removal = -kk;
        memcpy(s.replacement + i, &replacement, sizeof replacement);
        memcpy(s.removal + i, &removal, sizeof removal);
    }
}

static void FN(wkv7_share)(const rk_wkv7 *p, ptrdiff_t at, ptrdiff_t c, const FN(wkv7_shared) *s)
{
    if (RK_IS_F32 && p->heads.size == 64)
        FN(wkv7_share_sized)(p, at, c, *s, 64);
    else
        FN(wkv7_share_sized)(p, at, c, *s, p->heads.size);
}

/* removed = S removal for n rows of the state, n constant. 0 is added so that -0 becomes 0: VEC_SUMS does it for some n
 * only, and a row must not depend on how many are reduced together. */
static inline __attribute__((always_inline)) void FN(wkv7_reduce)(const FN(wkv7_shared) *s, const REAL *read,
                                                                  REAL *removed, ptrdiff_t size, const int n)
{
    VEC acc[ROW_BLOCK];
#pragma GCC unroll 8
    for (int r = 0; r < n; r++) acc[r] = (VEC){0};
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const VEC removal = FN(load)(s->removal + i);
#pragma GCC unroll 8
        for (int r = 0; r < n; r++) acc[r] = VEC_FMA(FN(get)(read + r * size + i, size - i), removal, acc[r]);
    }
    VEC_SUMS(acc, n, removed);
    for (int r = 0; r < n; r++) removed[r] += (REAL)0;
}

/* Update n rows of the state with what was removed from each, n constant and few enough for registers; return the sums
 * for y in `acc`. The numbers of a row are read before its state is written, which may be the same memory for all that
 * the compiler knows; x - 0, unlike 0 + x, is x and costs nothing. Meanwhile n rows from `ahead` on are prefetched. */
static inline __attribute__((always_inline)) void FN(wkv7_update)(const FN(wkv7_shared) *s, const REAL *v,
                                                                  const REAL *read, REAL *write, const REAL *ahead,
                                                                  const REAL *removed, ptrdiff_t size, const int n,
                                                                  VEC *acc)
{
    const VEC zero = {0};
    VEC value[UPDATED] = {{0}}, gone[UPDATED] = {{0}}, sums[UPDATED] = {{0}};
#pragma GCC unroll 4
    for (int r = 0; r < n; r++) {
        value[r] = v[r] - zero;
        gone[r] = removed[r] - zero;
    }
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const VEC decay = FN(load)(s->decay + i), key = FN(load)(s->key + i);
        const VEC replacement = FN(load)(s->replacement + i), receptance = FN(load)(s->receptance + i);
#pragma GCC unroll 4
        for (int r = 0; r < n; r++) {
            FN(prefetch_row)(ahead == NULL ? NULL : ahead + r * size, i);
            VEC row = FN(get)(read + r * size + i, size - i) * decay;
            row = VEC_FMA(gone[r], replacement, row);
            row = VEC_FMA(value[r], key, row);
            FN(put)(write + r * size + i, row, size - i);
            sums[r] = VEC_FMA(row, receptance, sums[r]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < n; r++) acc[r] = sums[r];
}

/* Update n rows of the state, of `size` elements each, with the sums in `removed`; n is constant, below UPDATED or a
 * multiple of it:
 *   S = S diag(decay) + removed replacement^T + v key^T;  y = S r
 * If y were tested before its sums are used, the compiler would compute them after the test, and spill all rows. */
static inline __attribute__((always_inline)) void FN(wkv7_updates)(const FN(wkv7_shared) *s, const REAL *v,
                                                                   const REAL *read, REAL *write, const REAL *ahead,
                                                                   const REAL *removed, REAL *y, ptrdiff_t size,
                                                                   const int n)
{
    VEC acc[ROW_BLOCK];
    REAL unused[ROW_BLOCK];
    const int together = n < UPDATED ? n : UPDATED;
#pragma GCC unroll 4
    for (int r = 0; r < n; r += together)
        FN(wkv7_update)(s, v + r, read + r * size, write + r * size, ahead == NULL ? NULL : ahead + r * size,
                        removed + r, size, together, acc + r);
    VEC_SUMS(acc, n, y == NULL ? unused : y);
}

/* Both for n rows; the sums with `removal` are returned in `removed`. */
static inline __attribute__((always_inline)) void FN(wkv7_rows)(const FN(wkv7_shared) *s, const REAL *v,
                                                                const REAL *read, REAL *write, REAL *removed, REAL *y,
                                                                ptrdiff_t size, const int n)
{
    REAL values[ROW_BLOCK];
    for (int r = 0; r < n; r++) values[r] = (REAL)0 + v[r];
    FN(wkv7_reduce)(s, read, removed, size, n);
    FN(wkv7_updates)(s, values, read, write, NULL, removed, y, size, n);
}

/* The same for one of the last rows of a piece: compiled once. */
static __attribute__((noinline)) void FN(wkv7_last_row)(const FN(wkv7_shared) *s, const REAL *v, const REAL *read,
                                                        REAL *write, REAL *y, ptrdiff_t size)
{
    REAL removed[1];
    FN(wkv7_rows)(s, v, read, write, removed, y, size, 1);
}

/* One token: rows begin..end. The sums of a whole group of rows are computed first: updating a row waits for its own,
 * and the CPU's window of instructions is too short to compute those of the next rows meanwhile. */
static inline __attribute__((always_inline)) void FN(wkv7_token)(const FN(wkv7_shared) *s, const REAL *v,
                                                                 const REAL *read, REAL *write, const REAL *ahead,
                                                                 REAL *y, ptrdiff_t size, ptrdiff_t begin,
                                                                 ptrdiff_t end)
{
    REAL removed[ROW_GROUP], values[ROW_GROUP];
    ptrdiff_t row = begin;
    while (row + ROW_BLOCK <= end) {
        const ptrdiff_t left = (end - row) / ROW_BLOCK * ROW_BLOCK, last = row + (left < ROW_GROUP ? left : ROW_GROUP);
        for (ptrdiff_t r = row; r < last; r += ROW_BLOCK)
            FN(wkv7_reduce)(s, read + r * size, removed + (r - row), size, ROW_BLOCK);
        for (ptrdiff_t r = row; r < last; r++) values[r - row] = (REAL)0 + v[r];
        for (ptrdiff_t r = row; r < last; r += ROW_BLOCK)
            FN(wkv7_updates)(s, values + (r - row), read + r * size, write + r * size,
                             ahead == NULL ? NULL : ahead + r * size, removed + (r - row), y == NULL ? NULL : y + r,
                             size, ROW_BLOCK);
        row = last;
    }
    for (; row < end; row++)
        FN(wkv7_last_row)(s, v + row, read + row * size, write + row * size, y == NULL ? NULL : y + row, size);
}

/* The shared vectors at `buffers`, which are cleared. */
static FN(wkv7_shared) FN(wkv7_vectors)(REAL *buffers, ptrdiff_t padded)
{
    memset(buffers, 0, (size_t)padded * RK_WKV7_VECTORS * sizeof(REAL));
    return (FN(wkv7_shared)){buffers, buffers + padded, buffers + 2 * padded, buffers + 3 * padded,
                             buffers + 4 * padded};
}

/* Prefetch what one head reads and writes for a token whose first element is `at`. Tokens are a few kilobytes apart,
 * too far for the hardware prefetcher. Always inlined: gcc removes the call of a function that only prefetches. */
static inline __attribute__((always_inline)) void FN(wkv7_prefetch)(const rk_wkv7 *p, ptrdiff_t at)
{
    const void *const arrays[] = {p->r, p->w, p->k, p->a, p->v_mix, p->v, p->v_used, p->v_first, p->heads.y};
#pragma GCC unroll 9
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        if (arrays[i] != NULL) FN(prefetch_head)((const REAL *)arrays[i] + at, p->heads.size);
}

/* Rows begin..end of one head, whose state is read from `read` and written to `write`, while those from `ahead` on are
 * prefetched. */
static void FN(wkv7_head)(const rk_wkv7 *p, ptrdiff_t first, ptrdiff_t tokens, ptrdiff_t head, const REAL *read,
                          REAL *write, ptrdiff_t begin, ptrdiff_t end, const REAL *ahead, REAL *scratch)
{
    const rk_heads *heads = &p->heads;
    const ptrdiff_t size = heads->size, c = head * size;
    const FN(wkv7_shared) shared = FN(wkv7_vectors)(scratch, rk_padded_head(size));
    for (ptrdiff_t t = first; t < first + tokens; t++, read = write, ahead = NULL) {
        const ptrdiff_t at = t * heads->count * size + c;
        REAL *v = (REAL *)p->v_used + at, *v_first = (REAL *)p->v_first + at;
        REAL *y = heads->y == NULL ? NULL : (REAL *)heads->y + at;
        if (t + 1 < first + tokens) FN(wkv7_prefetch)(p, at + heads->count * size);
        FN(wkv7_share)(p, at, c, &shared);
        /* v += (v_first - v) * sigmoid(v0 + v_mix), except in the first layer */
        for (ptrdiff_t i = begin; i < end; i += LANES) {
            const ptrdiff_t n = end - i;
            VEC own = FN(get)((const REAL *)p->v + at + i, n);
            if (p->v_mix == NULL) {
                FN(put)(v_first + i, own, n);
            } else {
                const VEC v0 = FN(get)((const REAL *)p->v0 + c + i, n);
                own += (FN(get)(v_first + i, n) - own) * FN(sigmoid)(v0 + FN(get)((const REAL *)p->v_mix + at + i, n));
            }
            FN(put)(v + i, own, n);
        }
        if (RK_IS_F32 && size == 64 && ahead != NULL)
            FN(wkv7_token)(&shared, v, read, write, ahead, y, 64, begin, end);
        else if (RK_IS_F32 && size == 64)
            FN(wkv7_token)(&shared, v, read, write, NULL, y, 64, begin, end);
        else
            FN(wkv7_token)(&shared, v, read, write, NULL, y, size, begin, end);
        /* bonus = sum r * key * r_k over the whole head */
        if (y != NULL && begin == 0) {
            const REAL *r_k = (const REAL *)p->r_k + c;
            VEC acc = {0};
            for (ptrdiff_t i = 0; i < size; i += LANES)
                acc = VEC_FMA(FN(load)(shared.receptance + i) * FN(load)(shared.key + i), FN(get)(r_k + i, size - i), acc);
            ((REAL *)p->bonus)[t * heads->count + head] = VEC_SUM(acc);
        }
    }
}

static void FN(wkv7)(const rk_heads *heads, ptrdiff_t first, ptrdiff_t tokens, ptrdiff_t head, const char *read,
                     char *write, ptrdiff_t begin, ptrdiff_t end, const void *ahead, void *scratch)
{
    const ptrdiff_t at = head * heads->size * heads->size;
    FN(wkv7_head)((const rk_wkv7 *)heads, first, tokens, head, (const REAL *)(read + heads->kv) + at,
                  (REAL *)(write + heads->kv) + at, begin, end, ahead, scratch);
}

/* y = (GroupNorm(y) + bonus * v) * g for one head. */
static void FN(wkv7_finish)(const rk_heads *heads, ptrdiff_t first, ptrdiff_t tokens, ptrdiff_t head)
{
    const rk_wkv7 *p = (const rk_wkv7 *)heads;
    const ptrdiff_t size = heads->size, c = head * size;
    const REAL *weight = (const REAL *)heads->norm_weight + c, *bias = (const REAL *)heads->norm_bias + c;
    for (ptrdiff_t t = first; t < first + tokens; t++) {
        const ptrdiff_t at = t * heads->count * size + c;
        const REAL *v = (const REAL *)p->v_used + at, *g = (const REAL *)p->g + at;
        const REAL bonus = ((const REAL *)p->bonus)[t * heads->count + head];
        REAL *y = (REAL *)heads->y + at, mean, scale;
        if (t + TOKENS_AHEAD < first + tokens) {
            const ptrdiff_t ahead = TOKENS_AHEAD * heads->count * size;
            FN(prefetch_head)(y + ahead, size), FN(prefetch_head)(v + ahead, size), FN(prefetch_head)(g + ahead, size);
        }
        FN(head_moments)(y, size, heads->eps, &mean, &scale);
        for (ptrdiff_t i = 0; i < size; i++)
            y[i] = ((y[i] - mean) * scale * weight[i] + bias[i] + bonus * v[i]) * g[i];
    }
}

#undef ROW_BLOCK
#undef ROW_GROUP
#undef UPDATED
#undef TOKENS_AHEAD
