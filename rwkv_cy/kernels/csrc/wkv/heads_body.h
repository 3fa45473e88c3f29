/* What versions with a matrix-valued state share: products and normalization over one head, for one type of activations
 * and one instruction set. */

/* Prefetch a row of the state that is read next, from element i on, once for each cache line; NULL: nothing. Into the
 * L2 cache: the state of a head and the next fill the L1 cache. */
static inline __attribute__((always_inline)) void FN(prefetch_row)(const REAL *ahead, ptrdiff_t i)
{
    if (ahead != NULL && i % (ptrdiff_t)(64 / sizeof(REAL)) == 0) __builtin_prefetch(ahead + i, 0, 2);
}

/* Prefetch a vector of a head into the L2 cache. */
static inline __attribute__((always_inline)) void FN(prefetch_head)(const REAL *x, ptrdiff_t size)
{
    for (ptrdiff_t i = 0; i < size; i += (ptrdiff_t)(64 / sizeof(REAL))) FN(prefetch_row)(x, i);
}

/* Dot product over a head; x and y may be equal. */
static inline REAL FN(dot)(const REAL *x, const REAL *y, ptrdiff_t size)
{
    VEC acc = {0};
    for (ptrdiff_t i = 0; i < size; i += LANES) acc = VEC_FMA(FN(get)(x + i, size - i), FN(get)(y + i, size - i), acc);
    return VEC_SUM(acc);
}

/* GroupNorm of one head before weight and bias: mean, and 1 / sqrt(variance + eps). */
static inline void FN(head_moments)(const REAL *y, ptrdiff_t size, double eps, REAL *mean, REAL *scale)
{
    *mean = FN(total)(y, size, 0, 0) / (REAL)size;
    *scale = (REAL)1 / SQRT(FN(total)(y, size, *mean, 1) / (REAL)size + (REAL)eps);
}
