/* Products with compressed bfloat16 (bf12), for one instruction set. Sums are in the order of rows_body.h, so that
 * results equal those of the same weights in bf16, bit for bit. Included after the float32 copy of load_body.h. */

#ifndef RK_BF12_AHEAD
/* Prefetch distance in bytes. Hardware prefetch alone reaches half of the bandwidth; prefetch into the L1 cache
 * occupies its few miss buffers, for which loads then wait. */
#define RK_BF12_AHEAD 8192
#endif

/* Decoded chunks of up to four rows: [row][part][q], as bf12_part returns them. */
typedef rk_vu16 bf12_vectors[RK_BF12_ROWS][BF12_PARTS][4];

/* The first column with an escape in any of `count` rows; PTRDIFF_MAX if there is none. */
static inline ptrdiff_t bf12_first(rk_bf12_lists lists, ptrdiff_t row, int count)
{
    ptrdiff_t first = PTRDIFF_MAX;
    for (ptrdiff_t i = rk_bf12_start(lists, row), end = rk_bf12_start(lists, row + count); i < end; i++) {
        ptrdiff_t column = rk_bf12_get(lists, i).column;
        first = column < first ? column : first;
    }
    return first;
}

/* Insert the escapes of columns k to k + 127, and return the first column after those with an escape. */
static __attribute__((noinline)) ptrdiff_t bf12_patch(rk_bf12_lists lists, ptrdiff_t begin, int count, ptrdiff_t k,
                                                      bf12_vectors *vectors)
{
    enum { WORDS = RK_VECTOR_BYTES / 2 };
    ptrdiff_t next = PTRDIFF_MAX, i = rk_bf12_start(lists, begin);
    for (int row = 0; row < count; row++) {
        for (ptrdiff_t end = rk_bf12_start(lists, begin + row + 1); i < end; i++) {
            rk_bf12_escape escape = rk_bf12_get(lists, i);
            ptrdiff_t c = escape.column - k, p = c % 16 * 2 + c / 16 % 2;
            if (c >= RK_BF12_COLS)
                next = escape.column < next ? escape.column : next;
            else if (c >= 0)
                memcpy((char *)&(*vectors)[row][p / WORDS][c / 32] + 2 * (p % WORDS), &escape.bits, 2);
        }
    }
    return next;
}

/* sum + row * x over the last n < 128 columns of a row, from column k on. */
static __attribute__((noinline)) rk_vf32 bf12_rest(const rk_matrix *m, ptrdiff_t row, ptrdiff_t k, ptrdiff_t n,
                                                   const float *x, rk_vf32 sum)
{
    uint16_t words[RK_BF12_COLS];
    bf12_words(m, row, k, words);
    ptrdiff_t c = 0;
    for (; c + BF12_LANES <= n; c += BF12_LANES) sum = RK_FMA_F32(rk_load_bf16(words + c), load_f32(x + c), sum);
    if (c < n) sum = RK_FMA_F32(weights_part_f32((const char *)words, RK_BF16, c, n - c), load_part_f32(x + c, n - c), sum);
    return sum;
}

/* `count` rows (one, or a group of four) times `tokens` tokens, both constants after inlining. */
static inline __attribute__((always_inline)) void bf12_block(const rk_matrix *m, rk_bf12_table table, const float *x,
                                                             float *y, ptrdiff_t ldy, ptrdiff_t begin, const int count,
                                                             const int tokens)
{
    const uint8_t *chunk = rk_bf12_chunk(m, begin, 0);
    const rk_bf12_lists lists = rk_bf12_lists_of(m);
    ptrdiff_t next = bf12_first(lists, begin, count), k = 0;
    rk_vf32 acc[RK_BF12_ROWS][RK_ROW_TOKENS] = {{{0}}};
    for (; k + RK_BF12_COLS <= m->cols; k += RK_BF12_COLS, chunk += RK_BF12_ROWS * RK_BF12_CHUNK) {
        bf12_vectors vectors;
        for (int line = 0; line < count * RK_BF12_CHUNK; line += 64)
            __builtin_prefetch(chunk + RK_BF12_AHEAD + line, 0, 2);
#pragma GCC unroll 4
        for (int i = 0; i < count; i++)
#pragma GCC unroll 4
            for (int part = 0; part < BF12_PARTS; part++)
                bf12_part(chunk + i * RK_BF12_CHUNK, table, part, vectors[i][part]);
        if (__builtin_expect(next < k + RK_BF12_COLS, 0)) {
            bf12_vectors patched;
            memcpy(patched, vectors, sizeof patched);
            next = bf12_patch(lists, begin, count, k, &patched);
            memcpy(vectors, patched, sizeof vectors);
        }
        /* In the order of columns: even words, which are the lower halves, come before the odd ones. */
#pragma GCC unroll 8
        for (int half = 0; half < 8; half++) {
#pragma GCC unroll 4
            for (int part = 0; part < BF12_PARTS; part++) {
                const float *at = x + k + 16 * half + part * BF12_LANES;
                rk_vf32 xv[RK_ROW_TOKENS];
#pragma GCC unroll 4
                for (int j = 0; j < tokens; j++) xv[j] = load_f32(at + j * m->cols);
#pragma GCC unroll 4
                for (int i = 0; i < count; i++) {
                    rk_vf32 w = bf12_floats(vectors[i][part], half);
#pragma GCC unroll 4
                    for (int j = 0; j < tokens; j++) acc[i][j] = RK_FMA_F32(w, xv[j], acc[i][j]);
                }
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < count; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < tokens; j++) {
            if (k < m->cols) acc[i][j] = bf12_rest(m, begin + i, k, m->cols - k, x + j * m->cols + k, acc[i][j]);
            y[j * ldy + begin + i] = rk_sum_f32(acc[i][j]) * (float)m->scale;
        }
    }
}

/* `count` rows, a constant after inlining, times all tokens. */
static inline __attribute__((always_inline)) void bf12_times(const rk_matrix *m, rk_bf12_table table, const float *x,
                                                             ptrdiff_t tokens, float *y, ptrdiff_t ldy, ptrdiff_t begin,
                                                             const int count)
{
    ptrdiff_t t = 0;
    for (; t + RK_ROW_TOKENS <= tokens; t += RK_ROW_TOKENS)
        bf12_block(m, table, x + t * m->cols, y + t * ldy, ldy, begin, count, RK_ROW_TOKENS);
    if (RK_ROW_TOKENS > 2 && t + 2 <= tokens) {
        bf12_block(m, table, x + t * m->cols, y + t * ldy, ldy, begin, count, 2);
        t += 2;
    }
    if (t < tokens) bf12_block(m, table, x + t * m->cols, y + t * ldy, ldy, begin, count, 1);
}

/* A function of its own: in a larger one, gcc keeps the decoded words in memory. */
static __attribute__((noinline)) void bf12_rows(const rk_matrix *m, const float *x, ptrdiff_t tokens, float *y,
                                                ptrdiff_t ldy, ptrdiff_t begin, ptrdiff_t end)
{
    rk_bf12_table table = rk_bf12_load_table(m->data);
    for (ptrdiff_t r = begin; r < end;) {
        int whole = r % RK_BF12_ROWS == 0 && end - r >= RK_BF12_ROWS;
        if (whole)
            bf12_times(m, table, x, tokens, y, ldy, r, RK_BF12_ROWS);
        else
            bf12_times(m, table, x, tokens, y, ldy, r, 1);
        r += whole ? RK_BF12_ROWS : 1;
    }
}

/* Pack columns begin..end of a panel as panels_body.h does: [column vector][row of the panel][lane], zero-padded. Both
 * bounds are multiples of RK_BF12_COLS, except at the end of the row. */
static void bf12_pack_rows(const rk_matrix *m, ptrdiff_t first, ptrdiff_t begin, ptrdiff_t end, float *packed)
{
    const rk_bf12_lists lists = rk_bf12_lists_of(m);
    const rk_bf12_table table = rk_bf12_load_table(m->data);
    const ptrdiff_t whole = end / RK_BF12_COLS * RK_BF12_COLS;
    for (ptrdiff_t i = 0; i < RK_PANEL_ROWS; i++) {
        const ptrdiff_t row = first + i;
        float *out = packed + i * BF12_LANES;
        if (row >= m->rows) {
            for (ptrdiff_t k = begin; k < end; k += BF12_LANES, out += RK_PANEL_ROWS * BF12_LANES)
                memset(out, 0, sizeof(rk_vf32));
            continue;
        }
        for (ptrdiff_t k = begin; k < whole; k += RK_BF12_COLS) {
#pragma GCC unroll 4
            for (int part = 0; part < BF12_PARTS; part++) {
                rk_vu16 words[4];
                bf12_part(rk_bf12_chunk(m, row, k), table, part, words);
#pragma GCC unroll 8
                for (int half = 0; half < 8; half++) {
                    rk_vf32 floats = bf12_floats(words, half);
                    memcpy(out + (k - begin + 16 * half + part * BF12_LANES) * RK_PANEL_ROWS, &floats, sizeof floats);
                }
            }
        }
        for (ptrdiff_t e = rk_bf12_start(lists, row), last = rk_bf12_start(lists, row + 1); e < last; e++) {
            rk_bf12_escape escape = rk_bf12_get(lists, e);
            ptrdiff_t lane = escape.column % BF12_LANES;
            if (escape.column >= begin && escape.column < whole)
                out[(escape.column - begin - lane) * RK_PANEL_ROWS + lane] = rk_bf16_to_f32(escape.bits);
        }
        if (whole == end) continue;
        uint16_t words[RK_BF12_COLS];
        bf12_words(m, row, whole, words);
        for (ptrdiff_t c = 0, left = end - whole; left > 0; c += BF12_LANES, left -= BF12_LANES) {
            rk_vf32 floats = weights_part_f32((const char *)words, RK_BF16, c, left < BF12_LANES ? left : BF12_LANES);
            memcpy(out + (whole - begin + c) * RK_PANEL_ROWS, &floats, sizeof floats);
        }
    }
}
