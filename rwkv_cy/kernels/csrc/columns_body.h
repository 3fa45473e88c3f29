/* Products with a transposed matrix, for one type of activations and one instruction set.
 *
 * An input that is zero costs nothing: its column is not read. The sum is that of matrix_body.h, bit for bit: for
 * each output, lane l accumulates the columns l, l + LANES, l + 2 LANES, ... one after the other, and the lanes are
 * added in the same tree. Here a vector holds one lane of LANES outputs. What a zero input would have added to a sum
 * of finite numbers is a zero, which changes nothing but the sign of a zero; so that this cannot be seen either, sums
 * that are zero are positive everywhere (rk_sum_*, and below). */

#define LANES ((ptrdiff_t)(sizeof(VEC) / sizeof(REAL)))
#define FN(name) RK_CAT(name, SUFFIX)

/* Vectors of outputs that are computed together: a tile's sums stay in registers, two tiles' as well where there are
 * thirty-two, and a column's part of a kilobyte is long enough for the CPU's own prefetching. */
enum { FN(tile_vectors) = 8 };

/* The inputs of one token that are not zero, and the last one again behind them. Within a lane they ascend. Lane by
 * lane, sums stay in registers; 16-bit columns are so short that it is better to meet them as they lie. */
static ptrdiff_t FN(list_nonzero)(const void *x_, int dtype, ptrdiff_t cols, int32_t *list)
{
    const REAL *x = x_;
    const ptrdiff_t step = FN(weight_bytes)(dtype) == 2 ? 1 : LANES;
    ptrdiff_t count = 0;
    for (ptrdiff_t begin = 0; begin < step; begin++) {
        for (ptrdiff_t k = begin; k < cols; k += step) {
            list[count] = (int32_t)k;
            count += x[k] != 0; /* NaN is not zero */
        }
    }
    for (ptrdiff_t i = 0; i < RK_NONZERO_PADDING; i++) list[count + i] = count > 0 ? list[count - 1] : 0;
    return count;
}

/* `width` outputs from `first` on: a constant after inlining, except at the end of the matrix. */
static inline __attribute__((always_inline)) void FN(column_tile)(const rk_matrix *m, int dtype, const REAL *x,
                                                                  const int32_t *list, ptrdiff_t count,
                                                                  ptrdiff_t first, ptrdiff_t width, REAL *y)
{
    const size_t itemsize = FN(weight_bytes)(dtype);
    const size_t stride = (size_t)m->rows * itemsize;
    const ptrdiff_t vectors = width / LANES, left = width % LANES;
    const char *data = (const char *)m->data + (size_t)first * itemsize;
    /* Nobody but this list knows which columns come next. Asking for the first lines of a long one is enough for the
     * CPU to go on by itself; 16-bit ones are too short for that. */
    const size_t asked = itemsize == 2 ? (size_t)width * 2 : 128;
    VEC sums[sizeof(VEC) / sizeof(REAL)][2 * FN(tile_vectors)]; /* [lane of the sum][vector of outputs] */
    memset(sums, 0, sizeof sums);
    for (ptrdiff_t n = 0; n < count;) {
        const ptrdiff_t lane = list[n] % LANES;
        VEC sum[2 * FN(tile_vectors)];
        memcpy(sum, sums[lane], (size_t)(vectors + (left > 0)) * sizeof(VEC));
        for (; n < count && list[n] % LANES == lane; n++) {
            const char *column = data + (size_t)list[n] * stride;
            const char *coming = data + (size_t)list[n + RK_NONZERO_PADDING] * stride;
            VEC xk = x[list[n]] - (VEC){0};
            for (size_t byte = 0; byte < asked; byte += 64) __builtin_prefetch(coming + byte);
            __builtin_prefetch(coming + asked - 1); /* one line more, where they do not begin with one */
            for (ptrdiff_t v = 0; v < vectors; v++)
                sum[v] = VEC_FMA(FN(weights)(column, dtype, v * LANES), xk, sum[v]);
            if (left)
                sum[vectors] = VEC_FMA(FN(weights_part)(column, dtype, vectors * LANES, left), xk, sum[vectors]);
        }
        memcpy(sums[lane], sum, (size_t)(vectors + (left > 0)) * sizeof(VEC));
    }
    for (ptrdiff_t v = 0; v < vectors + (left > 0); v++) {
        for (ptrdiff_t half = LANES / 2; half > 0; half /= 2)
            for (ptrdiff_t lane = 0; lane < half; lane++) sums[lane][v] += sums[lane + half][v];
        VEC result = (sums[0][v] + (REAL)0) * (REAL)m->scale;
        memcpy(y + first + v * LANES, &result, (size_t)(v < vectors ? LANES : left) * sizeof(REAL));
    }
}

static inline __attribute__((always_inline)) void FN(columns_of)(const rk_matrix *m, int dtype, const REAL *x,
                                                                 const int32_t *list, ptrdiff_t count, REAL *y,
                                                                 ptrdiff_t begin, ptrdiff_t end)
{
    const ptrdiff_t tile = FN(tile_vectors) * LANES;
    const ptrdiff_t last = end * tile < m->rows ? end * tile : m->rows;
    ptrdiff_t first = begin * tile;
    for (; last - first >= 2 * tile; first += 2 * tile)
        FN(column_tile)(m, dtype, x, list, count, first, 2 * tile, y);
    if (last - first >= tile) {
        FN(column_tile)(m, dtype, x, list, count, first, tile, y);
        first += tile;
    }
    if (last > first) FN(column_tile)(m, dtype, x, list, count, first, last - first, y);
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
