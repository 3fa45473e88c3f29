/* WKV of RWKV-6, and of RWKV-5, whose decay is constant, for one type of activations and one instruction set. It updates
 * rows of one head's state, token by token. */
#include "wkv/wkv6.h"

#define ROW_BLOCK 8 /* rows that are reduced together */

/* Update n rows of the state, of `size` elements each; v and y belong to the rows:
 *   y = S r + (sum r u k) v;  S = S diag(decay) + v k^T
 * bonus = sum r u k. Without y, r may be anything. Meanwhile n rows from `ahead` on are prefetched. */
static inline __attribute__((always_inline)) void FN(wkv6_rows)(const REAL *decay, const REAL *k, const REAL *r,
                                                                const REAL *v, REAL bonus, const REAL *read,
                                                                REAL *write, const REAL *ahead, REAL *y,
                                                                ptrdiff_t size, int n)
{
    VEC acc[ROW_BLOCK];
    REAL sums[ROW_BLOCK];
    for (int row = 0; row < n; row++) acc[row] = (VEC){0};
    for (ptrdiff_t i = 0; i < size; i += LANES) {
        const VEC zero = {0}, w = FN(load)(decay + i);
        const VEC key = FN(get)(k + i, size - i), receptance = FN(get)(r + i, size - i);
        for (int row = 0; row < n; row++) {
            FN(prefetch_row)(ahead == NULL ? NULL : ahead + row * size, i);
            const VEC s = FN(get)(read + row * size + i, size - i);
            acc[row] = VEC_FMA(s, receptance, acc[row]);
            FN(put)(write + row * size + i, VEC_FMA(zero + v[row], key, s * w), size - i);
        }
    }
    if (y == NULL) return;
    VEC_SUMS(acc, n, sums);
    for (int row = 0; row < n; row++) y[row] = sums[row] + bonus * v[row];
}

/* The same for the last rows of a piece, fewer than ROW_BLOCK: compiled once. */
static __attribute__((noinline)) void FN(wkv6_last_rows)(const REAL *decay, const REAL *k, const REAL *r, const REAL *v,
                                                         REAL bonus, const REAL *read, REAL *write, REAL *y,
                                                         ptrdiff_t size, int n)
{
    FN(wkv6_rows)(decay, k, r, v, bonus, read, write, NULL, y, size, n);
}

static inline __attribute__((always_inline)) void FN(wkv6_token)(const REAL *decay, const REAL *k, const REAL *r,
                                                                 const REAL *v, REAL bonus, const REAL *read,
                                                                 REAL *write, const REAL *ahead, REAL *y,
                                                                 ptrdiff_t size, ptrdiff_t begin, ptrdiff_t end)
{
    ptrdiff_t row = begin;
    for (; row + ROW_BLOCK <= end; row += ROW_BLOCK)
        FN(wkv6_rows)(decay, k, r, v + row, bonus, read + row * size, write + row * size,
                      ahead == NULL ? NULL : ahead + row * size, y == NULL ? NULL : y + row, size, ROW_BLOCK);
    if (row < end)
        FN(wkv6_last_rows)(decay, k, r, v + row, bonus, read + row * size, write + row * size,
                           y == NULL ? NULL : y + row, size, (int)(end - row));
}

/* The decay of one head and token, [size], zero-padded to whole SIMD vectors; `at` is the head's first element, c its
 * first channel. */
static void FN(wkv6_decay)(const rk_wkv6 *p, ptrdiff_t at, ptrdiff_t c, REAL *decay)
{
    const ptrdiff_t size = p->heads.size;
    const REAL *time_decay = (const REAL *)p->decay + c;
    memset(decay + size, 0, (size_t)(rk_padded_head(size) - size) * sizeof(REAL));
    if (p->w == NULL) memcpy(decay, time_decay, (size_t)size * sizeof(REAL));
    /* decay = exp(-e^(time_decay + w)): 0 if the inner exponential overflows */
    for (ptrdiff_t i = 0; p->w != NULL && i < size; i += LANES) {
        const VEC w = FN(get)((const REAL *)p->w + at + i, size - i);
        FN(put)(decay + i, VEC_EXP(-VEC_EXP(FN(get)(time_decay + i, size - i) + w)), size - i);
    }
}

/* sum r u k over a head */
static REAL FN(wkv6_bonus)(const REAL *r, const REAL *u, const REAL *k, ptrdiff_t size)
{
    VEC acc = {0};
    for (ptrdiff_t i = 0; i < size; i += LANES)
        acc = VEC_FMA(FN(get)(r + i, size - i) * FN(get)(k + i, size - i), FN(get)(u + i, size - i), acc);
    return VEC_SUM(acc);
}

/* Rows begin..end of one head, whose state is read from `read` and written to `write`, while those from `ahead` on are
 * prefetched; decay [padded size] is scratch. */
static void FN(wkv6_head)(const rk_wkv6 *p, ptrdiff_t first, ptrdiff_t tokens, ptrdiff_t head, const REAL *read,
                          REAL *write, ptrdiff_t begin, ptrdiff_t end, const REAL *ahead, REAL *decay)
{
    const rk_heads *heads = &p->heads;
    const ptrdiff_t size = heads->size, c = head * size;
    for (ptrdiff_t t = first; t < first + tokens; t++, read = write, ahead = NULL) {
        const ptrdiff_t at = t * heads->count * size + c;
        const REAL *k = (const REAL *)p->k + at, *v = (const REAL *)p->v + at;
        const REAL *r = heads->y == NULL ? k : (const REAL *)p->r + at;
        REAL *y = heads->y == NULL ? NULL : (REAL *)heads->y + at;
        if (t == first || p->w != NULL) FN(wkv6_decay)(p, at, c, decay);
        const REAL bonus = FN(wkv6_bonus)(r, (const REAL *)p->u + c, k, size);
        if (RK_IS_F32 && size == 64 && ahead != NULL)
            FN(wkv6_token)(decay, k, r, v, bonus, read, write, ahead, y, 64, begin, end);
        else if (RK_IS_F32 && size == 64)
            FN(wkv6_token)(decay, k, r, v, bonus, read, write, NULL, y, 64, begin, end);
        else
            FN(wkv6_token)(decay, k, r, v, bonus, read, write, NULL, y, size, begin, end);
    }
}

static void FN(wkv6)(const rk_heads *heads, ptrdiff_t first, ptrdiff_t tokens, ptrdiff_t head, const char *read,
                     char *write, ptrdiff_t begin, ptrdiff_t end, const void *ahead, void *scratch)
{
    const ptrdiff_t at = head * heads->size * heads->size;
    FN(wkv6_head)((const rk_wkv6 *)heads, first, tokens, head, (const REAL *)(read + heads->kv) + at,
                  (REAL *)(write + heads->kv) + at, begin, end, ahead, scratch);
}

/* y = GroupNorm(y) for one head, times g sigmoid(g) if there is a gate. */
static void FN(wkv6_finish)(const rk_heads *heads, ptrdiff_t first, ptrdiff_t tokens, ptrdiff_t head)
{
    const rk_wkv6 *p = (const rk_wkv6 *)heads;
    const ptrdiff_t size = heads->size, c = head * size;
    const REAL *weight = (const REAL *)heads->norm_weight + c, *bias = (const REAL *)heads->norm_bias + c;
    for (ptrdiff_t t = first; t < first + tokens; t++) {
        const ptrdiff_t at = t * heads->count * size + c;
        REAL *y = (REAL *)heads->y + at, mean, scale;
        FN(head_moments)(y, size, heads->eps, &mean, &scale);
        for (ptrdiff_t i = 0; i < size; i++) y[i] = (y[i] - mean) * scale * weight[i] + bias[i];
        for (ptrdiff_t i = 0; p->g != NULL && i < size; i += LANES) {
            const VEC g = FN(get)((const REAL *)p->g + at + i, size - i);
            FN(put)(y + i, FN(get)(y + i, size - i) * (g * FN(sigmoid)(g)), size - i);
        }
    }
}

#undef ROW_BLOCK
