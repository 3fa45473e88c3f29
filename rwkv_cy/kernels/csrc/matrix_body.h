/* Products with a weight matrix, for one type of activations and one instruction set.
 *
 * Every product is summed in one order, whichever path computes it: lane l of a vector accumulates
 * the columns l, l + LANES, l + 2 LANES, ... one after the other, and the lanes are added in a tree
 * at the end. So one token or many, any number of threads, any split of a prompt: the same bits. */

#define LANES ((ptrdiff_t)(sizeof(VEC) / sizeof(REAL)))
#define FN(name) RK_CAT(name, SUFFIX)

static inline VEC FN(load)(const REAL *p)
{
    VEC v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline VEC FN(load_part)(const REAL *p, ptrdiff_t n)
{
    VEC v = {0};
    memcpy(&v, p, (size_t)n * sizeof(REAL));
    return v;
}

/* LANES weights from column k of a row, as activations. */
static inline VEC FN(weights)(const char *row, int dtype, ptrdiff_t k)
{
#if RK_IS_F32
    if (dtype == RK_F16) return rk_load_f16((const uint16_t *)row + k);
    if (dtype == RK_BF16) return rk_load_bf16((const uint16_t *)row + k);
#endif
    (void)dtype;
    return FN(load)((const REAL *)row + k);
}

static inline VEC FN(weights_part)(const char *row, int dtype, ptrdiff_t k, ptrdiff_t n)
{
#if RK_IS_F32
    if (dtype != RK_F32) {
        uint16_t part[sizeof(VEC) / sizeof(REAL)] = {0};
        memcpy(part, (const uint16_t *)row + k, (size_t)n * 2);
        return FN(weights)((const char *)part, dtype, 0);
    }
#endif
    (void)dtype;
    return FN(load_part)((const REAL *)row + k, n);
}

static inline size_t FN(weight_bytes)(int dtype)
{
    return dtype == RK_F64 ? 8 : dtype == RK_F32 ? 4 : 2;
}

/* `count` rows (a constant after inlining) times one token. */
static inline __attribute__((always_inline)) void FN(rows_block)(const rk_matrix *m, int dtype, const REAL *x, REAL *y,
                                                                 ptrdiff_t begin, int count)
{
    size_t stride = (size_t)m->cols * FN(weight_bytes)(dtype);
    const char *row = (const char *)m->data + (size_t)begin * stride;
    VEC acc[4] = {{0}};
    ptrdiff_t k = 0;
    for (; k + LANES <= m->cols; k += LANES) {
        VEC xk = FN(load)(x + k);
        for (int i = 0; i < count; i++) {
            /* The rows that come next lie behind these: ask for them while these are summed. The CPU's own prefetching
             * starts anew with each row, and in 16 bits leaves half of the bandwidth unused; in 32 it does better. */
            if (FN(weight_bytes)(dtype) == 2)
                __builtin_prefetch(row + (size_t)(count + i) * stride + (size_t)k * FN(weight_bytes)(dtype));
            acc[i] = VEC_FMA(FN(weights)(row + (size_t)i * stride, dtype, k), xk, acc[i]);
        }
    }
    if (k < m->cols) {
        VEC xk = FN(load_part)(x + k, m->cols - k);
        for (int i = 0; i < count; i++)
            acc[i] = VEC_FMA(FN(weights_part)(row + (size_t)i * stride, dtype, k, m->cols - k), xk, acc[i]);
    }
    for (int i = 0; i < count; i++) y[begin + i] = VEC_SUM(acc[i]) * (REAL)m->scale;
}

static inline __attribute__((always_inline)) void FN(rows_of)(const rk_matrix *m, int dtype, const REAL *x,
                                                              ptrdiff_t tokens, REAL *y, ptrdiff_t ldy,
                                                              ptrdiff_t begin, ptrdiff_t end)
{
    ptrdiff_t r = begin;
    for (; r + 4 <= end; r += 4)
        for (ptrdiff_t t = 0; t < tokens; t++) FN(rows_block)(m, dtype, x + t * m->cols, y + t * ldy, r, 4);
    for (; r < end; r++)
        for (ptrdiff_t t = 0; t < tokens; t++) FN(rows_block)(m, dtype, x + t * m->cols, y + t * ldy, r, 1);
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
    default: FN(rows_of)(m, RK_F32, x, tokens, y, ldy, begin, end); return;
#else
    default: FN(rows_of)(m, RK_F64, x, tokens, y, ldy, begin, end); return;
#endif
    }
}

/* Packed tokens: [group][column vector][token of the group][lane], padded with zeros. */
static void FN(pack_tokens)(const void *x_, ptrdiff_t tokens, ptrdiff_t cols, void *packed, ptrdiff_t begin,
                            ptrdiff_t end)
{
    const REAL *x = x_;
    ptrdiff_t vectors = (cols + LANES - 1) / LANES;
    for (ptrdiff_t g = begin; g < end; g++) {
        REAL *out = (REAL *)packed + g * vectors * RK_PANEL_TOKENS * LANES;
        for (ptrdiff_t j = 0; j < RK_PANEL_TOKENS; j++) {
            ptrdiff_t t = g * RK_PANEL_TOKENS + j;
            for (ptrdiff_t v = 0; v < vectors; v++) {
                ptrdiff_t left = cols - v * LANES;
                VEC value = {0};
                if (t < tokens)
                    value = left >= LANES ? FN(load)(x + t * cols + v * LANES)
                                          : FN(load_part)(x + t * cols + v * LANES, left);
                memcpy(out + (v * RK_PANEL_TOKENS + j) * LANES, &value, sizeof value);
            }
        }
    }
}

/* A packed panel of rows: [column vector][row of the panel][lane], padded with zeros. */
static inline __attribute__((always_inline)) void FN(pack_rows)(const rk_matrix *m, int dtype, ptrdiff_t first,
                                                                REAL *packed)
{
    size_t stride = (size_t)m->cols * FN(weight_bytes)(dtype);
    ptrdiff_t vectors = (m->cols + LANES - 1) / LANES;
    for (ptrdiff_t i = 0; i < RK_PANEL_ROWS; i++) {
        ptrdiff_t r = first + i;
        const char *row = (const char *)m->data + (size_t)r * stride;
        for (ptrdiff_t v = 0; v < vectors; v++) {
            ptrdiff_t left = m->cols - v * LANES;
            VEC value = {0};
            if (r < m->rows)
                value = left >= LANES ? FN(weights)(row, dtype, v * LANES)
                                      : FN(weights_part)(row, dtype, v * LANES, left);
            memcpy(packed + (v * RK_PANEL_ROWS + i) * LANES, &value, sizeof value);
        }
    }
}

/* acc[i][j] += panel row i * token j over `vectors` column vectors. */
static inline __attribute__((always_inline)) void FN(tile)(const REAL *w, const REAL *x, ptrdiff_t vectors,
                                                           VEC acc[RK_PANEL_ROWS][RK_PANEL_TOKENS])
{
    for (ptrdiff_t v = 0; v < vectors; v++) {
        VEC xv[RK_PANEL_TOKENS];
        for (int j = 0; j < RK_PANEL_TOKENS; j++) xv[j] = FN(load)(x + (v * RK_PANEL_TOKENS + j) * LANES);
        for (int i = 0; i < RK_PANEL_ROWS; i++) {
            VEC wv = FN(load)(w + (v * RK_PANEL_ROWS + i) * LANES);
            for (int j = 0; j < RK_PANEL_TOKENS; j++) acc[i][j] = VEC_FMA(wv, xv[j], acc[i][j]);
        }
    }
}

static void FN(panels)(const rk_matrix *m, const void *packed_tokens, ptrdiff_t tokens, void *y_, ptrdiff_t ldy,
                       ptrdiff_t begin, ptrdiff_t end, void *scratch)
{
    typedef VEC tile_acc[RK_PANEL_ROWS][RK_PANEL_TOKENS];
    const ptrdiff_t vectors = (m->cols + LANES - 1) / LANES;
    const ptrdiff_t step = RK_PANEL_COLS / LANES;
    const ptrdiff_t groups = (tokens + RK_PANEL_TOKENS - 1) / RK_PANEL_TOKENS;
    REAL *y = y_;
    REAL *w = scratch;
    /* Accumulators of every group wait here between two steps along the columns. */
    REAL *waiting = w + vectors * RK_PANEL_ROWS * LANES;

    for (ptrdiff_t p = begin; p < end; p++) {
        switch (m->dtype) {
#if RK_IS_F32
        case RK_F16: FN(pack_rows)(m, RK_F16, p * RK_PANEL_ROWS, w); break;
        case RK_BF16: FN(pack_rows)(m, RK_BF16, p * RK_PANEL_ROWS, w); break;
        case RK_BF12: bf12_pack_rows(m, p * RK_PANEL_ROWS, w); break;
        default: FN(pack_rows)(m, RK_F32, p * RK_PANEL_ROWS, w); break;
#else
        default: FN(pack_rows)(m, RK_F64, p * RK_PANEL_ROWS, w); break;
#endif
        }
        for (ptrdiff_t v = 0; v < vectors; v += step) {
            ptrdiff_t count = vectors - v < step ? vectors - v : step;
            int last = v + count == vectors;
            for (ptrdiff_t g = 0; g < groups; g++) {
                const REAL *x = (const REAL *)packed_tokens + (g * vectors + v) * RK_PANEL_TOKENS * LANES;
                tile_acc acc = {{{0}}};
                REAL *slot = waiting + g * (ptrdiff_t)(sizeof(tile_acc) / sizeof(REAL));
                if (v > 0) memcpy(acc, slot, sizeof acc);
                FN(tile)(w + v * RK_PANEL_ROWS * LANES, x, count, acc);
                if (!last) {
                    memcpy(slot, acc, sizeof acc);
                    continue;
                }
                for (ptrdiff_t j = 0; j < RK_PANEL_TOKENS && g * RK_PANEL_TOKENS + j < tokens; j++)
                    for (ptrdiff_t i = 0; i < RK_PANEL_ROWS && p * RK_PANEL_ROWS + i < m->rows; i++)
                        y[(g * RK_PANEL_TOKENS + j) * ldy + p * RK_PANEL_ROWS + i] =
                            VEC_SUM(acc[i][j]) * (REAL)m->scale;
            }
        }
    }
}

#undef LANES
#undef FN
