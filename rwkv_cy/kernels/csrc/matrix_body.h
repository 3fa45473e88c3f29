/* Products with a weight matrix, for one type of numbers and one instruction set.
 *
 * NUM is the type of the numbers that are multiplied, NVEC a vector of them; REAL is that of the sums, VEC a vector of
 * those; VEC_DOT(w, x, acc) adds the products of two NVEC to a VEC. NUM is REAL, but where the CPU multiplies bf16.
 *
 * Every product is summed in one order, whichever path computes it: lane l of a vector accumulates the columns of
 * vector 0, 1, 2, ... that belong to it one after the other, and the lanes are added in a tree at the end. So one token
 * or many, any number of threads, any split of a prompt: the same bits. */

#define LANES ((ptrdiff_t)(sizeof(NVEC) / sizeof(NUM)))
#define FN(name) RK_CAT(name, SUFFIX)

static inline NVEC FN(load)(const NUM *p)
{
    NVEC v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* The first n lanes; the others are zeros. */
static inline NVEC FN(load_part)(const NUM *p, ptrdiff_t n)
{
    NVEC v = {0};
    if (n == LANES) return FN(load)(p);
    memcpy(&v, p, (size_t)n * sizeof(NUM));
    return v;
}

/* LANES weights from column k of a row, as they are multiplied. */
static inline NVEC FN(weights)(const char *row, int dtype, ptrdiff_t k)
{
#if RK_IS_F32
    if (dtype == RK_F16) return rk_load_f16((const uint16_t *)row + k);
    if (dtype == RK_BF16) return rk_load_bf16((const uint16_t *)row + k);
#endif
    (void)dtype;
    return FN(load)((const NUM *)row + k);
}

static inline NVEC FN(weights_part)(const char *row, int dtype, ptrdiff_t k, ptrdiff_t n)
{
#if RK_IS_F32
    if (dtype != RK_F32) {
        uint16_t part[sizeof(NVEC) / sizeof(NUM)] = {0};
        memcpy(part, (const uint16_t *)row + k, (size_t)n * 2);
        return FN(weights)((const char *)part, dtype, 0);
    }
#endif
    (void)dtype;
    return FN(load_part)((const NUM *)row + k, n);
}

static inline size_t FN(weight_bytes)(int dtype)
{
    return dtype == RK_F64 ? 8 : dtype == RK_F32 ? 4 : 2;
}

#ifndef ASKED_AHEAD
#define ASKED_AHEAD 8192 /* bytes */
#endif

/* `rows` rows times `tokens` tokens, both constants after inlining. */
static inline __attribute__((always_inline)) void FN(rows_block)(const rk_matrix *m, int dtype, const NUM *x, REAL *y,
                                                                 ptrdiff_t ldy, ptrdiff_t begin, const int rows,
                                                                 const int tokens)
{
    const size_t stride = (size_t)m->cols * FN(weight_bytes)(dtype);
    const char *row = (const char *)m->data + (size_t)begin * stride;
    VEC acc[4][RK_ROW_TOKENS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < tokens; j++) acc[i][j] = (VEC){0};
    ptrdiff_t k = 0;
    for (; k + LANES <= m->cols; k += LANES) {
        NVEC w[4];
        for (int i = 0; i < rows; i++) {
            /* The CPU's own prefetching ends with each page. In 16 bits it leaves half of the bandwidth unused; in more
             * it does well for one token, and for several is asked for too late. */
            if (FN(weight_bytes)(dtype) == 2)
                __builtin_prefetch(row + (size_t)i * stride + (size_t)k * 2 + ASKED_AHEAD);
            else if (tokens > 1)
                __builtin_prefetch(row + (size_t)(rows + i) * stride + (size_t)k * FN(weight_bytes)(dtype), 0, 2);
            w[i] = FN(weights)(row + (size_t)i * stride, dtype, k);
        }
        for (int j = 0; j < tokens; j++) {
            NVEC xk = FN(load)(x + j * m->cols + k);
            for (int i = 0; i < rows; i++) acc[i][j] = VEC_DOT(w[i], xk, acc[i][j]);
        }
    }
    if (k < m->cols) {
        for (int j = 0; j < tokens; j++) {
            NVEC xk = FN(load_part)(x + j * m->cols + k, m->cols - k);
            for (int i = 0; i < rows; i++)
                acc[i][j] =
                    VEC_DOT(FN(weights_part)(row + (size_t)i * stride, dtype, k, m->cols - k), xk, acc[i][j]);
        }
    }
    for (int j = 0; j < tokens; j++)
        for (int i = 0; i < rows; i++) y[j * ldy + begin + i] = VEC_SUM(acc[i][j]) * (REAL)m->scale;
}

/* `rows` rows times all tokens. */
static inline __attribute__((always_inline)) void FN(rows_times)(const rk_matrix *m, int dtype, const NUM *x,
                                                                 ptrdiff_t tokens, REAL *y, ptrdiff_t ldy,
                                                                 ptrdiff_t begin, const int rows)
{
    ptrdiff_t t = 0;
    for (; t + RK_ROW_TOKENS <= tokens; t += RK_ROW_TOKENS)
        FN(rows_block)(m, dtype, x + t * m->cols, y + t * ldy, ldy, begin, rows, RK_ROW_TOKENS);
    if (RK_ROW_TOKENS > 2 && t + 2 <= tokens) {
        FN(rows_block)(m, dtype, x + t * m->cols, y + t * ldy, ldy, begin, rows, 2);
        t += 2;
    }
    if (t < tokens) FN(rows_block)(m, dtype, x + t * m->cols, y + t * ldy, ldy, begin, rows, 1);
}

static inline __attribute__((always_inline)) void FN(rows_of)(const rk_matrix *m, int dtype, const NUM *x,
                                                              ptrdiff_t tokens, REAL *y, ptrdiff_t ldy,
                                                              ptrdiff_t begin, ptrdiff_t end)
{
    ptrdiff_t r = begin;
    /* A token's 16 bits come best as one stream; the sums of several rows overlap in the CPU's own queue. */
    if (FN(weight_bytes)(dtype) != 2 || tokens > 1)
        for (; r + 4 <= end; r += 4) FN(rows_times)(m, dtype, x, tokens, y, ldy, r, 4);
    for (; r < end; r++) FN(rows_times)(m, dtype, x, tokens, y, ldy, r, 1);
}

static void FN(rows)(const rk_matrix *m, const void *x, ptrdiff_t tokens, void *y, ptrdiff_t ldy, ptrdiff_t begin,
                     ptrdiff_t end)
{
    /* One copy of the loop for each storage type, so that none asks inside. */
    switch (m->dtype) {
#if RK_IS_F32
    case RK_F16: FN(rows_of)(m, RK_F16, x, tokens, y, ldy, begin, end); return;
    case RK_BF16: FN(rows_of)(m, RK_BF16, x, tokens, y, ldy, begin, end); return;
    case RK_BF12: bf12_rows(m, x, tokens, y, ldy, begin, end); return;
#endif
    default: FN(rows_of)(m, OWN_DTYPE, x, tokens, y, ldy, begin, end); return;
    }
}

/* A token of a packed group: [column vector][token of the group][lane], padded with zeros. */
static void FN(pack_token)(const void *x_, ptrdiff_t cols, ptrdiff_t place, void *group)
{
    const NUM *x = x_;
    NUM *out = (NUM *)group + place * LANES;
    const ptrdiff_t whole = x == NULL ? 0 : cols / LANES, vectors = (cols + LANES - 1) / LANES;
    for (ptrdiff_t v = 0; v < vectors; v++) {
        NVEC value = {0};
        if (v < whole)
            value = FN(load)(x + v * LANES);
        else if (x != NULL)
            value = FN(load_part)(x + v * LANES, cols - v * LANES);
        memcpy(out + v * RK_PANEL_TOKENS * LANES, &value, sizeof value);
    }
}

/* A packed panel of rows, `count` column vectors of it from `from` on: [column vector][row of the panel][lane], padded
 * with zeros. */
static inline __attribute__((always_inline)) void FN(pack_rows_of)(const rk_matrix *m, int dtype, ptrdiff_t first,
                                                                   ptrdiff_t from, ptrdiff_t count, NUM *packed)
{
    const size_t stride = (size_t)m->cols * FN(weight_bytes)(dtype);
    const char *row = (const char *)m->data + (size_t)first * stride;
    const ptrdiff_t rows = m->rows - first, end = m->cols / LANES < from + count ? m->cols / LANES : from + count;
    ptrdiff_t v = 0;
    /* All rows and all lanes are there: nothing to ask. */
    for (; rows >= RK_PANEL_ROWS && from + v < end; v++)
#pragma GCC unroll 6
        for (ptrdiff_t i = 0; i < RK_PANEL_ROWS; i++) {
            NVEC value = FN(weights)(row + (size_t)i * stride, dtype, (from + v) * LANES);
            memcpy(packed + (v * RK_PANEL_ROWS + i) * LANES, &value, sizeof value);
        }
    for (; v < count; v++) {
        const ptrdiff_t k = (from + v) * LANES;
        for (ptrdiff_t i = 0; i < RK_PANEL_ROWS; i++) {
            NVEC value = {0};
            if (i < rows)
                value = k + LANES <= m->cols ? FN(weights)(row + (size_t)i * stride, dtype, k)
                                             : FN(weights_part)(row + (size_t)i * stride, dtype, k, m->cols - k);
            memcpy(packed + (v * RK_PANEL_ROWS + i) * LANES, &value, sizeof value);
        }
    }
}

/* The one place that knows how a matrix lies in memory when tokens are many. */
static void FN(pack_rows)(const rk_matrix *m, ptrdiff_t first, ptrdiff_t from, ptrdiff_t count, NUM *packed)
{
    switch (m->dtype) {
#if RK_IS_F32
    case RK_F16: FN(pack_rows_of)(m, RK_F16, first, from, count, packed); return;
    case RK_BF16: FN(pack_rows_of)(m, RK_BF16, first, from, count, packed); return;
    case RK_BF12: {
        const ptrdiff_t end = (from + count) * LANES;
        bf12_pack_rows(m, first, from * LANES, end < m->cols ? end : m->cols, packed);
        return;
    }
#endif
    default: FN(pack_rows_of)(m, OWN_DTYPE, first, from, count, packed); return;
    }
}

/* `panels` of them, one after the other, wherever the matrix has its rows. */
static void FN(pack_panels)(const rk_matrix *m, ptrdiff_t first, ptrdiff_t panels, ptrdiff_t from, ptrdiff_t count,
                            NUM *packed)
{
    if (!m->transposed) {
        for (ptrdiff_t p = 0; p < panels; p++)
            FN(pack_rows)(m, first + p * RK_PANEL_ROWS, from, count, packed + p * count * RK_PANEL_ROWS * LANES);
        return;
    }
    if (sizeof(REAL) == sizeof(float)) {
        turn_panels(m, sizeof(NUM) < sizeof(REAL), first, panels, from, count, packed);
        return;
    }
    for (ptrdiff_t r = 0; r < panels * RK_PANEL_ROWS; r++) {
        NUM *out = packed + (r / RK_PANEL_ROWS * count * RK_PANEL_ROWS + r % RK_PANEL_ROWS) * LANES;
        for (ptrdiff_t k = 0; k < count * LANES; k++) {
            const ptrdiff_t column = from * LANES + k;
            out[k / LANES * RK_PANEL_ROWS * LANES + k % LANES] =
                first + r < m->rows && column < m->cols ? ((const NUM *)m->data)[column * m->rows + first + r] : 0;
        }
    }
}

/* Weights to come, line by line: `rows` runs of `bytes` bytes, `stride` bytes apart. */
typedef struct {
    const char *row;
    ptrdiff_t stride, rows, bytes, at;
} FN(ahead);

static FN(ahead) FN(ahead_of)(const rk_matrix *m, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t from, ptrdiff_t count)
{
    const ptrdiff_t size = (ptrdiff_t)FN(weight_bytes)(m->dtype);
    if (first >= m->rows) return (FN(ahead)){NULL, 0, 0, 0, 0};
    if (first + rows > m->rows) rows = m->rows - first;
    if (m->dtype == RK_BF12) { /* groups of rows, whose columns lie in turn */
        const char *group = (const char *)rk_bf12_chunk(m, first / RK_BF12_ROWS * RK_BF12_ROWS, from * LANES);
        return (FN(ahead)){group, rk_bf12_group(m->cols), (rows + RK_BF12_ROWS - 1) / RK_BF12_ROWS,
                           rk_bf12_group(count * LANES), 0};
    }
    if (m->transposed) {
        const ptrdiff_t k = from * LANES, columns = m->cols - k < count * LANES ? m->cols - k : count * LANES;
        return (FN(ahead)){(const char *)m->data + (k * m->rows + first) * size, m->rows * size, columns, rows * size, 0};
    }
    return (FN(ahead)){(const char *)m->data + (first * m->cols + from * LANES) * size, m->cols * size, rows,
                       count * LANES * size, 0};
}

/* Ask for the next `lines` of them: a few at a time, since more than the CPU can wait for at once would stop it. */
static inline void FN(ask_for)(FN(ahead) *next, ptrdiff_t lines)
{
    for (; lines > 0 && next->rows > 0; lines--) {
        __builtin_prefetch(next->row + next->at, 0, 2);
        next->at += 64;
        if (next->at >= next->bytes) {
            next->at = 0;
            next->row += next->stride;
            next->rows--;
        }
    }
}

/* acc[j][i] += panel row i * token j over `vectors` column vectors, at least one: a loop that may not run at all makes gcc
 * write all of acc to memory before it and read it behind it. */
static inline __attribute__((always_inline)) void FN(tile)(const NUM *w, const NUM *x, ptrdiff_t vectors,
                                                           VEC acc[RK_PANEL_TOKENS][RK_PANEL_ROWS])
{
    ptrdiff_t v = 0;
    do {
        NVEC xv[RK_PANEL_TOKENS];
        for (int j = 0; j < RK_PANEL_TOKENS; j++) xv[j] = FN(load)(x + (v * RK_PANEL_TOKENS + j) * LANES);
        for (int i = 0; i < RK_PANEL_ROWS; i++) {
            NVEC wv = FN(load)(w + (v * RK_PANEL_ROWS + i) * LANES);
            for (int j = 0; j < RK_PANEL_TOKENS; j++) acc[j][i] = VEC_DOT(wv, xv[j], acc[j][i]);
        }
    } while (++v < vectors);
}

/* A tile over one step along the columns. Its accumulators begin as `from` has them: zeros, or what waited since the
 * step before. They go to `slot` to wait, or after the last step, where that is NULL, their sums go to y: as many rows
 * and tokens as there are. */
static void FN(tile_step)(const NUM *w, const NUM *x, ptrdiff_t vectors, const VEC *from, VEC *slot, REAL scale,
                          REAL *y, ptrdiff_t ldy, ptrdiff_t rows, ptrdiff_t tokens)
{
    VEC acc[RK_PANEL_TOKENS][RK_PANEL_ROWS];
    for (int j = 0; j < RK_PANEL_TOKENS; j++)
        for (int i = 0; i < RK_PANEL_ROWS; i++) acc[j][i] = from[j * RK_PANEL_ROWS + i];
    FN(tile)(w, x, vectors, acc);
    if (slot != NULL) {
        for (int j = 0; j < RK_PANEL_TOKENS; j++)
            for (int i = 0; i < RK_PANEL_ROWS; i++) slot[j * RK_PANEL_ROWS + i] = acc[j][i];
        return;
    }
    REAL sums[RK_PANEL_TOKENS * RK_PANEL_ROWS];
    VEC_SUMS(&acc[0][0], RK_PANEL_TOKENS * RK_PANEL_ROWS, sums);
    for (int i = 0; i < RK_PANEL_TOKENS * RK_PANEL_ROWS; i++) sums[i] = (sums[i] + (REAL)0) * scale; /* as in rk_sum_* */
    if (rows >= RK_PANEL_ROWS && tokens >= RK_PANEL_TOKENS) {
        for (int j = 0; j < RK_PANEL_TOKENS; j++)
            memcpy(y + j * ldy, sums + j * RK_PANEL_ROWS, RK_PANEL_ROWS * sizeof(REAL));
        return;
    }
    for (ptrdiff_t j = 0; j < RK_PANEL_TOKENS && j < tokens; j++)
        for (ptrdiff_t i = 0; i < RK_PANEL_ROWS && i < rows; i++) y[j * ldy + i] = sums[j * RK_PANEL_ROWS + i];
}

/* Blocks of panels, one after the other; of each, one run of columns after the other is packed, in steps, and goes with
 * every group of tokens: a step of the group stays in the first-level cache, the packed run in the second. Between
 * steps the accumulators of a group wait, between runs those of all groups. */
static void FN(panels)(const rk_matrix *m, const void *packed_tokens, ptrdiff_t tokens, void *y_, ptrdiff_t ldy,
                       ptrdiff_t begin, ptrdiff_t end, void *scratch)
{
    enum { TILE = RK_PANEL_ROWS * RK_PANEL_TOKENS };
    static const VEC zeros[TILE];
    const ptrdiff_t vectors = (m->cols + LANES - 1) / LANES;
    const ptrdiff_t run = rk_panel_run(vectors * LANES, sizeof(NUM)) / LANES;
    const ptrdiff_t step = rk_panel_step(vectors * LANES, sizeof(NUM)) / LANES;
    const ptrdiff_t most = rk_block_panels(vectors * LANES, sizeof(NUM));
    const ptrdiff_t groups = (tokens + RK_PANEL_TOKENS - 1) / RK_PANEL_TOKENS;
    REAL *y = y_;
    NUM *w = scratch;
    /* Behind whole vectors: as aligned as the scratch is. */
    VEC *waiting = (VEC *)(w + most * run * RK_PANEL_ROWS * LANES);

    for (ptrdiff_t b = begin, block; b < end; b += block) {
        block = end - b < most ? end - b : most;
        const ptrdiff_t first = b * RK_PANEL_ROWS, rows = block * RK_PANEL_ROWS, wide = rows * LANES;
        for (ptrdiff_t v = 0, stop; v < vectors; v = stop) {
            stop = vectors - v < run ? vectors : v + run;
            for (ptrdiff_t s = v; s < stop; s += step)
                FN(pack_panels)(m, first, block, s, stop - s < step ? stop - s : step, w + (s - v) * wide);
            /* What is packed next: the next block, from its first column, or the same rows further on. */
            FN(ahead) next = stop == vectors ? FN(ahead_of)(m, first + rows, most * RK_PANEL_ROWS, 0, run)
                                             : FN(ahead_of)(m, first, rows, stop, run);
            const ptrdiff_t tiles = groups * block * ((stop - v + step - 1) / step);
            const ptrdiff_t lines = next.rows * (next.bytes / 64 + 1) / tiles + 1;
            for (ptrdiff_t g = 0; g < groups; g++) {
                const ptrdiff_t t = g * RK_PANEL_TOKENS;
                VEC *slots = waiting + (run < vectors ? g * most * TILE : 0);
                for (ptrdiff_t s = v; s < stop; s += step) {
                    const ptrdiff_t count = stop - s < step ? stop - s : step;
                    const NUM *x = (const NUM *)packed_tokens + (g * vectors + s) * RK_PANEL_TOKENS * LANES;
                    for (ptrdiff_t p = 0; p < block; p++) {
                        const ptrdiff_t r = first + p * RK_PANEL_ROWS;
                        VEC *slot = slots + p * TILE;
                        FN(ask_for)(&next, lines);
                        FN(tile_step)(w + (s - v) * wide + p * count * RK_PANEL_ROWS * LANES, x, count,
                                      s == 0 ? zeros : slot, s + count == vectors ? NULL : slot, (REAL)m->scale,
                                      y + t * ldy + r, ldy, m->rows - r, tokens - t);
                    }
                }
            }
        }
    }
}

#undef LANES
#undef FN
