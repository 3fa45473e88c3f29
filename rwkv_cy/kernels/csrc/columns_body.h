/* Products with a transposed matrix, for one type of activations and one instruction set.
 *
 * An input that is zero costs nothing: its column is not read. The sum is that of matrix_body.h, bit for bit: for
 * each output, lane l accumulates the columns l, l + LANES, l + 2 LANES, ... one after the other, and the lanes are
 * added in the same tree. Here each lane has a row of sums, one for every output, and the threads share the lanes: whole
 * columns are read, in one piece each. What a zero input would have added to a sum of finite numbers is a zero, which
 * changes nothing but the sign of a zero; so that this cannot be seen either, sums that are zero are positive
 * everywhere (rk_sum_*, and below). */

#define LANES ((ptrdiff_t)(sizeof(VEC) / sizeof(REAL)))
#define FN(name) RK_CAT(name, SUFFIX)

enum { FN(together) = 4 }; /* columns that share one reading and one writing of the sums */

/* Columns of nonzero inputs, and the inputs. */
typedef struct {
    const char *column[FN(together)];
    REAL x[FN(together)];
    int count;
} FN(inputs);

/* The next nonzero inputs of a lane from column *k on, which moves behind them. */
static inline FN(inputs) FN(next_inputs)(const rk_matrix *m, size_t stride, const REAL *x, ptrdiff_t *k)
{
    FN(inputs) found = {.count = 0};
    for (; *k < m->cols && found.count < FN(together); *k += LANES) {
        if (x[*k] == 0) continue; /* NaN is not zero */
        found.column[found.count] = (const char *)m->data + (size_t)*k * stride;
        found.x[found.count++] = x[*k];
    }
    return found;
}

/* sums += columns * x: `count` columns (a constant after inlining), while those of `next` are asked for. */
static inline __attribute__((always_inline)) void FN(add_columns)(const FN(inputs) *now, const FN(inputs) *next,
                                                                  int dtype, const int count, ptrdiff_t rows,
                                                                  REAL *sums)
{
    const size_t itemsize = FN(weight_bytes)(dtype);
    const ptrdiff_t line = 64 / (ptrdiff_t)itemsize;
    VEC x[FN(together)];
    for (int i = 0; i < count; i++) x[i] = now->x[i] - (VEC){0};
    ptrdiff_t r = 0;
    for (; r + line <= rows; r += line) {
        for (int i = 0; i < next->count; i++) __builtin_prefetch(next->column[i] + (size_t)r * itemsize);
        for (ptrdiff_t at = r; at < r + line; at += LANES) {
            VEC sum = FN(load)(sums + at);
            for (int i = 0; i < count; i++) sum = VEC_FMA(FN(weights)(now->column[i], dtype, at), x[i], sum);
            memcpy(sums + at, &sum, sizeof sum);
        }
    }
    for (; r < rows; r += LANES) {
        ptrdiff_t left = rows - r < LANES ? rows - r : LANES;
        VEC sum = FN(load_part)(sums + r, left);
        for (int i = 0; i < count; i++) sum = VEC_FMA(FN(weights_part)(now->column[i], dtype, r, left), x[i], sum);
        memcpy(sums + r, &sum, (size_t)left * sizeof(REAL));
    }
}

static inline __attribute__((always_inline)) void FN(columns_of)(const rk_matrix *m, int dtype, const REAL *x,
                                                                 REAL *sums, ptrdiff_t begin, ptrdiff_t end)
{
    const size_t stride = (size_t)m->rows * FN(weight_bytes)(dtype);
    for (ptrdiff_t lane = begin; lane < end; lane++) {
        REAL *own = sums + lane * m->rows;
        ptrdiff_t k = lane;
        memset(own, 0, (size_t)m->rows * sizeof(REAL));
        FN(inputs) now = FN(next_inputs)(m, stride, x, &k);
        while (now.count > 0) {
            FN(inputs) next = FN(next_inputs)(m, stride, x, &k);
            switch (now.count) {
            case 4: FN(add_columns)(&now, &next, dtype, 4, m->rows, own); break;
            case 3: FN(add_columns)(&now, &next, dtype, 3, m->rows, own); break;
            case 2: FN(add_columns)(&now, &next, dtype, 2, m->rows, own); break;
            default: FN(add_columns)(&now, &next, dtype, 1, m->rows, own); break;
            }
            now = next;
        }
    }
}

static void FN(columns)(const rk_matrix *m, const void *x, void *sums, ptrdiff_t begin, ptrdiff_t end)
{
    switch (m->dtype) {
#if RK_IS_F32
    case RK_F16: FN(columns_of)(m, RK_F16, x, sums, begin, end); return;
    case RK_BF16: FN(columns_of)(m, RK_BF16, x, sums, begin, end); return;
    default: FN(columns_of)(m, RK_F32, x, sums, begin, end); return;
#else
    default: FN(columns_of)(m, RK_F64, x, sums, begin, end); return;
#endif
    }
}

static void FN(add_lanes)(const rk_matrix *m, const void *sums_, void *y_)
{
    const REAL *sums = sums_;
    REAL *y = y_;
    for (ptrdiff_t r = 0; r < m->rows; r += LANES) {
        ptrdiff_t left = m->rows - r < LANES ? m->rows - r : LANES;
        VEC sum[sizeof(VEC) / sizeof(REAL)];
        for (ptrdiff_t lane = 0; lane < LANES; lane++) sum[lane] = FN(load_part)(sums + lane * m->rows + r, left);
        for (ptrdiff_t half = LANES / 2; half > 0; half /= 2)
            for (ptrdiff_t lane = 0; lane < half; lane++) sum[lane] += sum[lane + half];
        VEC result = (sum[0] + (REAL)0) * (REAL)m->scale;
        memcpy(y + r, &result, (size_t)left * sizeof(REAL));
    }
}

#undef LANES
#undef FN
