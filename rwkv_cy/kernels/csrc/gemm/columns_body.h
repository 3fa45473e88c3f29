/* Products of one to RK_COLUMN_TOKENS tokens with a transposed matrix, for one type of activations and one instruction
 * set.
 *
 * The column of an input that is zero for all tokens is not read. The sums equal those of rows_body.h bit for bit: for
 * each output, lane l accumulates the columns l, l + LANES, l + 2 LANES, ... in order, and the lanes are added in the
 * same tree. Here each lane has a row of sums, one per output, and threads share the lanes, so that whole columns are
 * read contiguously. Skipping a zero input leaves out the addition of a zero, which could only change the sign of a
 * zero sum. To hide even that, all paths make zero sums positive (rk_sum_*, and add_lanes below). */

#define LANES ((ptrdiff_t)(sizeof(VEC) / sizeof(REAL)))
#define FN(name) RK_CAT(name, SUFFIX)

enum { FN(together) = 4 }; /* columns added per load and store of the sums */

/* Columns with a non-zero input, and their inputs for each token. */
typedef struct {
    const char *column[FN(together)];
    VEC x[FN(together)][RK_COLUMN_TOKENS];
    int count;
} FN(inputs);

/* Collect the next such columns of a lane, from column *k on; advances *k past them. */
static inline __attribute__((always_inline)) void FN(next_inputs)(const rk_matrix *m, size_t stride, const REAL *x,
                                                                  const int tokens, ptrdiff_t *k, FN(inputs) *next)
{
    next->count = 0;
    for (; *k < m->cols && next->count < FN(together); *k += LANES) {
        int nonzero = 0;
        for (int t = 0; t < tokens; t++) nonzero |= x[t * m->cols + *k] != 0; /* true for NaN */
        if (!nonzero) continue;
        next->column[next->count] = (const char *)m->data + (size_t)*k * stride;
        for (int t = 0; t < tokens; t++) next->x[next->count][t] = x[t * m->cols + *k] - (VEC){0};
        next->count++;
    }
}

/* sums [tokens][rows] += columns * x for `count` columns from number `from` on; prefetches the columns of `next`.
 * `count` and `tokens` are constants after inlining. */
static inline __attribute__((always_inline)) void FN(add_columns)(const FN(inputs) *now, int from, const int count,
                                                                  const FN(inputs) *next, int dtype, const int tokens,
                                                                  ptrdiff_t rows, REAL *sums)
{
    const size_t itemsize = FN(weight_bytes)(dtype);
    const ptrdiff_t line = 64 / (ptrdiff_t)itemsize;
    ptrdiff_t r = 0;
    for (; r + line <= rows; r += line) {
        for (int i = 0; i < next->count; i++) __builtin_prefetch(next->column[i] + (size_t)r * itemsize, 0, 2);
        for (ptrdiff_t at = r; at < r + line; at += LANES) {
            NVEC w[FN(together)];
            for (int i = 0; i < count; i++) w[i] = FN(weights)(now->column[from + i], dtype, at);
            for (int t = 0; t < tokens; t++) {
                VEC sum = FN(load)(sums + t * rows + at);
                for (int i = 0; i < count; i++) sum = VEC_FMA(w[i], now->x[from + i][t], sum);
                memcpy(sums + t * rows + at, &sum, sizeof sum);
            }
        }
    }
    for (; r < rows; r += LANES) {
        ptrdiff_t left = rows - r < LANES ? rows - r : LANES;
        for (int t = 0; t < tokens; t++) {
            VEC sum = FN(load_part)(sums + t * rows + r, left);
            for (int i = 0; i < count; i++)
                sum = VEC_FMA(FN(weights_part)(now->column[from + i], dtype, r, left), now->x[from + i][t], sum);
            memcpy(sums + t * rows + r, &sum, (size_t)left * sizeof(REAL));
        }
    }
}

/* Lanes begin..end for one type of weights. `tokens` is a constant after inlining. */
static inline __attribute__((always_inline)) void FN(lanes_of)(const rk_matrix *m, int dtype, const REAL *x,
                                                               const int tokens, REAL *sums, ptrdiff_t begin,
                                                               ptrdiff_t end)
{
    const size_t stride = (size_t)m->rows * FN(weight_bytes)(dtype);
    for (ptrdiff_t lane = begin; lane < end; lane++) {
        REAL *own = sums + lane * tokens * m->rows;
        FN(inputs) inputs[2];
        ptrdiff_t k = lane;
        memset(own, 0, (size_t)(tokens * m->rows) * sizeof(REAL));
        FN(next_inputs)(m, stride, x, tokens, &k, &inputs[0]);
        for (int current = 0; inputs[current].count > 0; current = !current) {
            const FN(inputs) *now = &inputs[current], *next = &inputs[!current];
            FN(next_inputs)(m, stride, x, tokens, &k, &inputs[!current]);
            if (now->count == FN(together))
                FN(add_columns)(now, 0, FN(together), next, dtype, tokens, m->rows, own);
            else
                for (int i = 0; i < now->count; i++)
                    FN(add_columns)(now, i, 1, next, dtype, tokens, m->rows, own);
        }
    }
}

static inline __attribute__((always_inline)) void FN(columns_of)(const rk_matrix *m, int dtype, const REAL *x,
                                                                 int tokens, REAL *sums, ptrdiff_t begin, ptrdiff_t end)
{
    switch (tokens) {
    case 1: FN(lanes_of)(m, dtype, x, 1, sums, begin, end); return;
    case 2: FN(lanes_of)(m, dtype, x, 2, sums, begin, end); return;
    case 3: FN(lanes_of)(m, dtype, x, 3, sums, begin, end); return;
    default: FN(lanes_of)(m, dtype, x, RK_COLUMN_TOKENS, sums, begin, end); return;
    }
}

static void FN(columns)(const rk_matrix *m, const void *x, int tokens, void *sums, ptrdiff_t begin, ptrdiff_t end)
{
    switch (m->dtype) {
#if RK_IS_F32
    case RK_F16: FN(columns_of)(m, RK_F16, x, tokens, sums, begin, end); return;
    case RK_BF16: FN(columns_of)(m, RK_BF16, x, tokens, sums, begin, end); return;
    default: FN(columns_of)(m, RK_F32, x, tokens, sums, begin, end); return;
#else
    default: FN(columns_of)(m, RK_F64, x, tokens, sums, begin, end); return;
#endif
    }
}

static void FN(add_lanes)(const rk_matrix *m, const void *sums_, int tokens, void *y_)
{
    for (int t = 0; t < tokens; t++) {
        const REAL *sums = (const REAL *)sums_ + t * m->rows;
        REAL *y = (REAL *)y_ + t * m->rows;
        for (ptrdiff_t r = 0; r < m->rows; r += LANES) {
            ptrdiff_t left = m->rows - r < LANES ? m->rows - r : LANES;
            VEC sum[sizeof(VEC) / sizeof(REAL)];
            for (ptrdiff_t lane = 0; lane < LANES; lane++)
                sum[lane] = FN(load_part)(sums + lane * tokens * m->rows + r, left);
            for (ptrdiff_t half = LANES / 2; half > 0; half /= 2)
                for (ptrdiff_t lane = 0; lane < half; lane++) sum[lane] += sum[lane + half];
            VEC result = (sum[0] + (REAL)0) * (REAL)m->scale;
            memcpy(y + r, &result, (size_t)left * sizeof(REAL));
        }
    }
}

#undef LANES
#undef FN
