/* Products of few tokens with a matrix of floats, row by row, for one type of factors and one instruction set.
 *
 * All paths add in one order: lane l accumulates its columns of vectors 0, 1, 2, ... in turn, and at the end the lanes
 * are added in a tree. So the result has the same bits for one token or many, for any number of threads and for any
 * split of a prompt. */

#define LANES ((ptrdiff_t)(sizeof(NVEC) / sizeof(NUM)))
#define FN(name) RK_CAT(name, SUFFIX)

/* Whether a single token processes 16-bit rows one by one. All other cases process four together, from four runs of
 * consecutive rows: hardware prefetch follows one stream in a page, and interleaved rows shorter than a page, two or
 * more in one, cost it a third of the bandwidth. */
#ifndef RK_SINGLE_ROWS
#define RK_SINGLE_ROWS 0
#endif

#ifndef PREFETCH_BYTES
#define PREFETCH_BYTES 8192
#endif

/* Add the products of one vector of columns, at column k, of rows `stride` bytes apart, to acc[j * rows + i] for row i
 * and token j; `rows` and `tokens` are constants after inlining. */
static inline __attribute__((always_inline)) void FN(rows_step)(const char *row, size_t stride, int dtype,
                                                                ptrdiff_t cols, const NUM *x, ptrdiff_t k, VEC *acc,
                                                                const int rows, const int tokens)
{
    NVEC w[4];
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) w[i] = FN(weights)(row + (size_t)i * stride, dtype, k);
#pragma GCC unroll 4
    for (int j = 0; j < tokens; j++) {
        NVEC xk = FN(load)(x + j * cols + k);
#pragma GCC unroll 4
        for (int i = 0; i < rows; i++) acc[j * rows + i] = VEC_DOT(w[i], xk, acc[j * rows + i]);
    }
}

/* The same for the last n < LANES columns. A function of its own, so that in rows_block the sums stay in registers. */
static __attribute__((noinline)) void FN(rows_rest)(const char *row, size_t stride, int dtype, ptrdiff_t cols,
                                                    const NUM *x, ptrdiff_t k, VEC *acc, int rows, int tokens)
{
    for (int i = 0; i < rows; i++) {
        NVEC w = FN(weights_part)(row + (size_t)i * stride, dtype, k, cols - k);
        for (int j = 0; j < tokens; j++)
            acc[j * rows + i] = VEC_DOT(w, FN(load_part)(x + j * cols + k, cols - k), acc[j * rows + i]);
    }
}

/* `rows` rows, `run` rows apart, times `tokens` tokens; both counts are constants after inlining. */
static inline __attribute__((always_inline)) void FN(rows_block)(const rk_matrix *m, int dtype, const NUM *x, REAL *y,
                                                                 ptrdiff_t ldy, ptrdiff_t begin, ptrdiff_t run,
                                                                 const int rows, const int tokens)
{
    const size_t bytes = (size_t)m->cols * FN(weight_bytes)(dtype), stride = (size_t)run * bytes;
    const char *row = (const char *)m->data + (size_t)begin * bytes;
    /* Columns in a cache line of weights. */
    const ptrdiff_t line = (ptrdiff_t)(64 / FN(weight_bytes)(dtype));
    /* For several tokens, hardware prefetch is too late; one stream of 16-bit weights reaches half of the bandwidth. */
    const size_t ahead = tokens > 1 ? bytes : PREFETCH_BYTES;
    const int prefetch = tokens > 1 || (rows == 1 && FN(weight_bytes)(dtype) == 2);
    VEC acc[4 * RK_ROW_TOKENS];
#pragma GCC unroll 16
    for (int n = 0; n < rows * tokens; n++) acc[n] = (VEC){0};
    ptrdiff_t k = 0;
    for (; k + line <= m->cols; k += line) {
        for (int i = 0; prefetch && i < rows; i++) {
            const char *next = row + (size_t)i * stride + (size_t)k * FN(weight_bytes)(dtype) + ahead;
            __builtin_prefetch(next, 0, 2);
            /* Twice a line for one token: with once, two threads reach 3 % less of the bandwidth. */
            if (tokens == 1) __builtin_prefetch(next + 32, 0, 2);
        }
        for (ptrdiff_t u = 0; u < line; u += LANES)
            FN(rows_step)(row, stride, dtype, m->cols, x, k + u, acc, rows, tokens);
    }
    for (; k + LANES <= m->cols; k += LANES) FN(rows_step)(row, stride, dtype, m->cols, x, k, acc, rows, tokens);
    if (__builtin_expect(k < m->cols, 0)) {
        VEC with_rest[4 * RK_ROW_TOKENS];
#pragma GCC unroll 16
        for (int n = 0; n < rows * tokens; n++) with_rest[n] = acc[n];
        FN(rows_rest)(row, stride, dtype, m->cols, x, k, with_rest, rows, tokens);
#pragma GCC unroll 16
        for (int n = 0; n < rows * tokens; n++) acc[n] = with_rest[n];
    }
    REAL sums[4 * RK_ROW_TOKENS];
    VEC_SUMS(acc, rows * tokens, sums);
    for (int n = 0; n < rows * tokens; n++) sums[n] = (sums[n] + (REAL)0) * (REAL)m->scale; /* as in rk_sum_* */
    for (int j = 0; j < tokens; j++)
        for (int i = 0; i < rows; i++) y[j * ldy + begin + i * run] = sums[j * rows + i];
}

/* `rows` rows, `run` rows apart, times all tokens. */
static inline __attribute__((always_inline)) void FN(rows_times)(const rk_matrix *m, int dtype, const NUM *x,
                                                                 ptrdiff_t tokens, REAL *y, ptrdiff_t ldy,
                                                                 ptrdiff_t begin, ptrdiff_t run, const int rows)
{
    ptrdiff_t t = 0;
    for (; t + RK_ROW_TOKENS <= tokens; t += RK_ROW_TOKENS)
        FN(rows_block)(m, dtype, x + t * m->cols, y + t * ldy, ldy, begin, run, rows, RK_ROW_TOKENS);
    if (RK_ROW_TOKENS > 2 && t + 2 <= tokens) {
        FN(rows_block)(m, dtype, x + t * m->cols, y + t * ldy, ldy, begin, run, rows, 2);
        t += 2;
    }
    if (t < tokens) FN(rows_block)(m, dtype, x + t * m->cols, y + t * ldy, ldy, begin, run, rows, 1);
}

static inline __attribute__((always_inline)) void FN(rows_of)(const rk_matrix *m, int dtype, const NUM *x,
                                                              ptrdiff_t tokens, REAL *y, ptrdiff_t ldy,
                                                              ptrdiff_t begin, ptrdiff_t end)
{
    ptrdiff_t r = begin;
    if (!RK_SINGLE_ROWS || FN(weight_bytes)(dtype) != 2 || tokens > 1) {
        const ptrdiff_t run = (end - begin) / 4;
        for (; r < begin + run; r++) FN(rows_times)(m, dtype, x, tokens, y, ldy, r, run, 4);
        r = begin + 4 * run;
    }
    for (; r < end; r++) FN(rows_times)(m, dtype, x, tokens, y, ldy, r, 1, 1);
}

static void FN(rows)(const rk_matrix *m, const void *x, ptrdiff_t tokens, void *y, ptrdiff_t ldy, ptrdiff_t begin,
                     ptrdiff_t end)
{
    /* One copy of the loop per storage type, so that the type is not tested inside. */
    switch (m->dtype) {
#if RK_IS_F32
    case RK_F16: FN(rows_of)(m, RK_F16, x, tokens, y, ldy, begin, end); return;
    case RK_BF16: FN(rows_of)(m, RK_BF16, x, tokens, y, ldy, begin, end); return;
    case RK_BF12: bf12_rows(m, x, tokens, y, ldy, begin, end); return;
#endif
    default: FN(rows_of)(m, OWN_DTYPE, x, tokens, y, ldy, begin, end); return;
    }
}

#undef LANES
#undef FN
