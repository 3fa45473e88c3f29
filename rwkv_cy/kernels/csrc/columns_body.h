/* Products with a transposed matrix, for one type of activations and one instruction set.
 *
 * An input that is zero costs nothing: its column is not read. The sum is that of matrix_body.h, bit for bit: for
 * each output, lane l accumulates the columns l, l + LANES, l + 2 LANES, ... one after the other, and the lanes are
 * added in the same tree. Here a vector holds one lane of LANES outputs. What a zero input would have added to a sum
 * of finite numbers is a zero, which changes nothing but the sign of a zero; so that this cannot be seen either, sums
 * that are zero are positive everywhere (rk_sum_*, and below). */

#define LANES ((ptrdiff_t)(sizeof(VEC) / sizeof(REAL)))
#define FN(name) RK_CAT(name, SUFFIX)

/* How many inputs ahead weights are asked for: the CPU cannot guess which columns come next, the list says it. */
#define AHEAD RK_NONZERO_PADDING

/* The inputs of one token that are not zero, in ascending order; the last one repeated AHEAD times behind them. */
static ptrdiff_t FN(list_nonzero)(const void *x_, ptrdiff_t cols, int32_t *list)
{
    const REAL *x = x_;
    ptrdiff_t count = 0;
    for (ptrdiff_t k = 0; k < cols; k++) {
        list[count] = (int32_t)k;
        count += x[k] != 0; /* NaN is not zero */
    }
    for (ptrdiff_t i = 0; i < AHEAD; i++) list[count + i] = count > 0 ? list[count - 1] : 0;
    return count;
}

/* `width` outputs from `first` on; a constant after inlining, except at the end of the matrix. */
static inline __attribute__((always_inline)) void FN(column_tile)(const rk_matrix *m, int dtype, const REAL *x,
                                                                  const int32_t *list, ptrdiff_t count,
                                                                  ptrdiff_t first, ptrdiff_t width, REAL *y)
{
    const size_t itemsize = FN(weight_bytes)(dtype);
    const size_t stride = (size_t)m->rows * itemsize;
    const ptrdiff_t vectors = width / LANES, left = width % LANES;
    const char *data = (const char *)m->data + (size_t)first * itemsize;
    /* sums[l][v]: lane l of the outputs of vector v */
    VEC sums[sizeof(VEC) / sizeof(REAL)][RK_TILE_ROWS / (sizeof(VEC) / sizeof(REAL))];
    memset(sums, 0, sizeof sums);
    for (ptrdiff_t n = 0; n < count; n++) {
        const char *column = data + (size_t)list[n] * stride;
        const char *coming = data + (size_t)list[n + AHEAD] * stride;
        VEC *sum = sums[list[n] % LANES];
        VEC xk = x[list[n]] - (VEC){0};
        for (size_t byte = 0; byte < (size_t)width * itemsize; byte += 64) __builtin_prefetch(coming + byte);
        for (ptrdiff_t v = 0; v < vectors; v++)
            sum[v] = VEC_FMA(FN(weights)(column, dtype, v * LANES), xk, sum[v]);
        if (left)
            sum[vectors] = VEC_FMA(FN(weights_part)(column, dtype, vectors * LANES, left), xk, sum[vectors]);
    }
    for (ptrdiff_t v = 0; v < vectors + (left > 0); v++) {
        for (ptrdiff_t half = LANES / 2; half > 0; half /= 2)
            for (ptrdiff_t l = 0; l < half; l++) sums[l][v] += sums[l + half][v];
        VEC result = (sums[0][v] + (REAL)0) * (REAL)m->scale;
        memcpy(y + first + v * LANES, &result, (size_t)(v < vectors ? LANES : left) * sizeof(REAL));
    }
}

static inline __attribute__((always_inline)) void FN(columns_of)(const rk_matrix *m, int dtype, const REAL *x,
                                                                 const int32_t *list, ptrdiff_t count, REAL *y,
                                                                 ptrdiff_t begin, ptrdiff_t end)
{
    for (ptrdiff_t tile = begin; tile < end; tile++) {
        ptrdiff_t first = tile * RK_TILE_ROWS;
        if (m->rows - first >= RK_TILE_ROWS)
            FN(column_tile)(m, dtype, x, list, count, first, RK_TILE_ROWS, y);
        else
            FN(column_tile)(m, dtype, x, list, count, first, m->rows - first, y);
    }
}

static void FN(columns)(const rk_matrix *m, const void *x, const int32_t *list, ptrdiff_t count, void *y,
                        ptrdiff_t begin, ptrdiff_t end)
{
    switch (m->dtype) {
#if RK_IS_F32
    case RK_F16: FN(columns_of)(m, RK_F16, x, list, count, y, begin, end); return;
    case RK_BF16: FN(columns_of)(m, RK_BF16, x, list, count, y, begin, end); return;
    default: FN(columns_of)(m, RK_F32, x, list, count, y, begin, end); return;
#else
    default: FN(columns_of)(m, RK_F64, x, list, count, y, begin, end); return;
#endif
    }
}

#undef LANES
#undef FN
#undef AHEAD
