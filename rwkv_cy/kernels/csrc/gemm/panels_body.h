/* Products of many tokens with a matrix of floats, by packed panels, for one type of factors and one instruction set.
 * Sums are in the order of rows_body.h. */
#include "gemm/ahead.h"

#define LANES ((ptrdiff_t)(sizeof(NVEC) / sizeof(NUM)))
#define FN(name) RK_CAT(name, SUFFIX)

/* Pack one token of a group [column vector][token of the group][lane], zero-padded. */
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

/* Pack `count` column vectors, from `from` on, of a panel of rows: [column vector][row of the panel][lane],
 * zero-padded. */
static inline __attribute__((always_inline)) void FN(pack_rows_of)(const rk_matrix *m, int dtype, ptrdiff_t first,
                                                                   ptrdiff_t from, ptrdiff_t count, NUM *packed)
{
    const size_t stride = (size_t)m->cols * FN(weight_bytes)(dtype);
    const char *row = (const char *)m->data + (size_t)first * stride;
    const ptrdiff_t rows = m->rows - first, end = m->cols / LANES < from + count ? m->cols / LANES : from + count;
    ptrdiff_t v = 0;
    /* Whole panel, whole vectors: no bounds checks. */
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

/* Pack a panel of a matrix that is stored by rows, in any storage type. */
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

/* Pack `panels` adjacent panels of a matrix in either orientation. */
static void FN(pack_panels)(const rk_matrix *m, ptrdiff_t first, ptrdiff_t panels, ptrdiff_t from, ptrdiff_t count,
                            NUM *packed)
{
    if (!m->transposed) {
        for (ptrdiff_t p = 0; p < panels; p++)
            FN(pack_rows)(m, first + p * RK_PANEL_ROWS, from, count, packed + p * count * RK_PANEL_ROWS * LANES);
        return;
    }
    PACK_TRANSPOSED(m, first, panels, from, count, packed);
}

/* acc[j][i] += panel row i * token j over `vectors` column vectors, at least one. A do-while, because gcc spills all of
 * acc around a loop that may run zero times. */
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

/* One tile over one step of columns. Accumulators start from `from`: zeros, or those saved by the previous step. They
 * are saved to `slot`; after the last step `slot` is NULL and their sums are written to y, for the rows and tokens that
 * exist. */
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

/* For each block of panels and each run of columns: pack the run, step by step, then multiply it with every group of
 * tokens. A step of a group stays in the L1 cache, the packed run in the L2 cache. Accumulators are saved between steps
 * (those of one group) and between runs (those of all groups). */
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
    /* After whole vectors, so as aligned as the scratch. */
    VEC *waiting = (VEC *)(w + most * run * RK_PANEL_ROWS * LANES);

    for (ptrdiff_t b = begin, block; b < end; b += block) {
        block = end - b < most ? end - b : most;
        const ptrdiff_t first = b * RK_PANEL_ROWS, rows = block * RK_PANEL_ROWS, wide = rows * LANES;
        for (ptrdiff_t v = 0, stop; v < vectors; v = stop) {
            stop = vectors - v < run ? vectors : v + run;
            for (ptrdiff_t s = v; s < stop; s += step)
                FN(pack_panels)(m, first, block, s, stop - s < step ? stop - s : step, w + (s - v) * wide);
            /* Packed next, so prefetched now: the next run of these rows, or the first run of the next block. */
            rk_ahead next = stop == vectors ? rk_ahead_of(m, first + rows, most * RK_PANEL_ROWS, 0, run * LANES)
                                            : rk_ahead_of(m, first, rows, stop * LANES, run * LANES);
            const ptrdiff_t tiles = groups * block * ((stop - v + step - 1) / step);
            const ptrdiff_t lines = next.rows * (next.bytes / 64 + 1) / tiles + 1;
            for (ptrdiff_t g = 0; g < groups; g++) {
                const ptrdiff_t t = g * RK_PANEL_TOKENS;
                VEC *slots = waiting + (run < vectors ? g * most * TILE : 0);
                for (ptrdiff_t s = v; s < stop; s += step) {
                    const ptrdiff_t count = stop - s < step ? stop - s : step;
                    const NUM *x = (const NUM *)packed_tokens + (g * vectors + s) * RK_PANEL_TOKENS * LANES;
                    /* Tokens come from the L3 cache or memory: those of the next step, while this one is multiplied. */
                    const NUM *after = s + count < stop || g + 1 == groups
                                           ? x + count * RK_PANEL_TOKENS * LANES
                                           : (const NUM *)packed_tokens + ((g + 1) * vectors + v) * RK_PANEL_TOKENS * LANES;
                    const ptrdiff_t share = (count * RK_PANEL_TOKENS * LANES + block - 1) / block;
                    for (ptrdiff_t p = 0; p < block; p++) {
                        const ptrdiff_t r = first + p * RK_PANEL_ROWS;
                        VEC *slot = slots + p * TILE;
                        rk_prefetch_lines(&next, lines);
                        for (ptrdiff_t i = 0; i < share; i += 64 / (ptrdiff_t)sizeof(NUM))
                            __builtin_prefetch(after + p * share + i, 0, 2);
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
