/* Products of many rounded activations with a bf16 matrix, by tiles that multiply bf16. Include a header of tiles before.
 *
 * Four tiles of sums, of 32 tokens and 32 rows, stay in registers over a run of columns; those of all tokens wait in the
 * scratch between runs. A tile product adds up 32 columns in an order of its own, so this is a mode in which one token
 * and many differ. */
#include "families/names.h"
#include "gemm/ahead.h"
#include "pick.h"
#include "scalar.h"

#define STEP_COLS 32 /* columns of one tile product */
#define PANEL 32     /* rows, and tokens, that are multiplied together: two tiles of each */
/* Most steps of a run: its panel, 2 KiB a step, takes most of the L1 cache and stays there for all tokens. */
#define RUN_STEPS 16
#define STEP_BYTES ((ptrdiff_t)(2 * RK_WHOLE_TILE))
#define SUMS_BYTES ((ptrdiff_t)(4 * RK_WHOLE_TILE))

static ptrdiff_t steps_of(ptrdiff_t cols) { return (cols + STEP_COLS - 1) / STEP_COLS; }

static ptrdiff_t run_of(ptrdiff_t steps)
{
    const ptrdiff_t runs = (steps + RUN_STEPS - 1) / RUN_STEPS;
    return (steps + runs - 1) / runs;
}

static ptrdiff_t groups_of(ptrdiff_t tokens) { return (tokens + PANEL - 1) / PANEL; }

static size_t scratch_bytes(const rk_matrix *m, ptrdiff_t tokens)
{
    const ptrdiff_t steps = steps_of(m->cols), run = run_of(steps);
    return (size_t)(run * STEP_BYTES + (run < steps ? groups_of(tokens) : 1) * SUMS_BYTES);
}

/* Pack one token of a group: [step][token of the group][32 columns], zero-padded. */
static void pack_token(const void *x, ptrdiff_t cols, ptrdiff_t place, void *group)
{
    char *out = (char *)group + place * RK_TILE_BYTES;
    for (ptrdiff_t k = 0; k < cols; k += STEP_COLS, out += STEP_BYTES) {
        rk_tu row = {0};
        const ptrdiff_t left = cols - k < STEP_COLS ? cols - k : STEP_COLS;
        if (x != NULL) memcpy(&row, (const uint16_t *)x + k, (size_t)left * 2);
        memcpy(out, &row, sizeof row);
    }
}

/* Transpose sixteen rows of sixteen items: each round interleaves the first eight with the last eight. */
static inline __attribute__((always_inline)) void transpose(rk_tu v[16])
{
#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
        rk_tu w[16];
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            w[2 * j] = RK_PICK(rk_tu, v[j], v[j + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            w[2 * j + 1] = RK_PICK(rk_tu, v[j], v[j + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
#pragma GCC unroll 16
        for (int j = 0; j < 16; j++) v[j] = w[j];
    }
}

/* The first `count` of sixteen words, widened; the others are zero. */
static inline rk_tu load_column(const uint16_t *words, ptrdiff_t count)
{
    rk_th v = {0};
    if (count == 16)
        memcpy(&v, words, sizeof v);
    else if (count > 0)
        memcpy(&v, words, (size_t)count * 2);
    return __builtin_convertvector(v, rk_tu);
}

/* 32 columns of sixteen rows as a tile needs them: for each two columns, the pairs of sixteen rows. Zeros beyond the
 * matrix. */
static void pack_tile(const rk_matrix *m, ptrdiff_t row, ptrdiff_t k, void *out)
{
    const ptrdiff_t columns = m->cols - k < STEP_COLS ? m->cols - k : STEP_COLS;
    const ptrdiff_t rows = m->rows - row < RK_TILE_ROWS ? m->rows - row : RK_TILE_ROWS;
    const uint16_t *weights = m->data;
    rk_tu v[16];
    if (m->transposed) {
        const uint16_t *column = weights + k * m->rows + row;
        for (int pair = 0; pair < 16; pair++, column += 2 * m->rows)
            v[pair] = load_column(column, columns > 2 * pair ? rows : 0) |
                      load_column(column + m->rows, columns > 2 * pair + 1 ? rows : 0) << 16;
    } else {
        const uint16_t *from = weights + row * m->cols + k;
        ptrdiff_t stride = m->cols;
        uint16_t edge[RK_TILE_ROWS][STEP_COLS];
        if (rows < RK_TILE_ROWS || columns < STEP_COLS) {
            memset(edge, 0, sizeof edge);
            for (ptrdiff_t r = 0; r < rows; r++) memcpy(edge[r], from + r * stride, (size_t)columns * 2);
            from = edge[0], stride = STEP_COLS;
        }
#pragma GCC unroll 16
        for (int r = 0; r < 16; r++) memcpy(&v[r], from + r * stride, sizeof v[r]);
        transpose(v);
    }
    memcpy(out, v, sizeof v);
}

/* Sums of one group of tokens, in tiles 0 to 3: [half of the tokens][half of the rows], tokens in tiles 4 and 5, weights
 * in tiles 6 and 7. `narrow`: there is no second half of the tokens. */
static void multiply(const char *w, const char *x, ptrdiff_t steps, int narrow, rk_ahead *next, ptrdiff_t lines)
{
    for (; steps > 0; steps--, w += STEP_BYTES, x += STEP_BYTES) {
        rk_prefetch_lines(next, lines);
        RK_TILE_LOAD(6, w, RK_TILE_BYTES);
        RK_TILE_LOAD(4, x, RK_TILE_BYTES);
        RK_TILE_LOAD(7, w + RK_WHOLE_TILE, RK_TILE_BYTES);
        RK_TILE_DOT_BF16(0, 4, 6);
        RK_TILE_DOT_BF16(1, 4, 7);
        if (narrow) continue;
        RK_TILE_LOAD(5, x + RK_WHOLE_TILE, RK_TILE_BYTES);
        RK_TILE_DOT_BF16(2, 5, 6);
        RK_TILE_DOT_BF16(3, 5, 7);
    }
}

static void load_sums(const char *sums)
{
    RK_TILE_LOAD(0, sums, RK_TILE_BYTES);
    RK_TILE_LOAD(1, sums + RK_WHOLE_TILE, RK_TILE_BYTES);
    RK_TILE_LOAD(2, sums + 2 * RK_WHOLE_TILE, RK_TILE_BYTES);
    RK_TILE_LOAD(3, sums + 3 * RK_WHOLE_TILE, RK_TILE_BYTES);
}

static void clear_sums(void)
{
    RK_TILE_ZERO(0);
    RK_TILE_ZERO(1);
    RK_TILE_ZERO(2);
    RK_TILE_ZERO(3);
}

static void store_sums(char *sums)
{
    RK_TILE_STORE(0, sums, RK_TILE_BYTES);
    RK_TILE_STORE(1, sums + RK_WHOLE_TILE, RK_TILE_BYTES);
    RK_TILE_STORE(2, sums + 2 * RK_WHOLE_TILE, RK_TILE_BYTES);
    RK_TILE_STORE(3, sums + 3 * RK_WHOLE_TILE, RK_TILE_BYTES);
}

/* Write the sums to y[token][row], for the rows and tokens that exist. */
static void write_sums(const char *sums, float scale, float *y, ptrdiff_t ldy, ptrdiff_t rows, ptrdiff_t tokens)
{
    for (ptrdiff_t t = 0; t < PANEL && t < tokens; t++) {
        for (ptrdiff_t half = 0; half < 2; half++) {
            const ptrdiff_t left = rows - half * RK_TILE_ROWS;
            rk_tf sum;
            memcpy(&sum, sums + (t / 16 * 2 + half) * RK_WHOLE_TILE + t % 16 * RK_TILE_BYTES, sizeof sum);
            sum *= scale;
            if (left > 0)
                memcpy(y + t * ldy + half * RK_TILE_ROWS, &sum, left < 16 ? (size_t)left * sizeof(float) : sizeof sum);
        }
    }
}

/* For each panel of rows and each run of columns: pack the run, then multiply it with every group of tokens. */
static void panels(const rk_matrix *m, const void *packed, ptrdiff_t tokens, void *y_, ptrdiff_t ldy, ptrdiff_t begin,
                   ptrdiff_t end, void *scratch)
{
    const ptrdiff_t steps = steps_of(m->cols), run = run_of(steps), groups = groups_of(tokens);
    rk_tile_shapes shapes = {.palette = 1};
    for (int t = 0; t < 8; t++) shapes.rows[t] = RK_TILE_ROWS, shapes.row_bytes[t] = RK_TILE_BYTES;
    char *w = scratch, *waiting = w + run * STEP_BYTES;
    rk_tiles_begin(&shapes);
    for (ptrdiff_t row = begin * PANEL; row < end * PANEL; row += PANEL) {
        for (ptrdiff_t s = 0, stop; s < steps; s = stop) {
            stop = steps - s < run ? steps : s + run;
            for (ptrdiff_t i = s; i < stop; i++)
                for (ptrdiff_t half = 0; half < 2; half++)
                    pack_tile(m, row + half * RK_TILE_ROWS, i * STEP_COLS,
                              w + (i - s) * STEP_BYTES + half * RK_WHOLE_TILE);
            /* Packed next, so prefetched now: the next run of these rows, or the first run of the next ones. */
            rk_ahead next = stop == steps ? rk_ahead_of(m, row + PANEL, PANEL, 0, run * STEP_COLS)
                                          : rk_ahead_of(m, row, PANEL, stop * STEP_COLS, run * STEP_COLS);
            const ptrdiff_t lines = next.rows * (next.bytes / 64 + 1) / (groups * (stop - s)) + 1;
            for (ptrdiff_t g = 0; g < groups; g++) {
                const ptrdiff_t t = g * PANEL;
                char *sums = waiting + (run < steps ? g : 0) * SUMS_BYTES;
                if (s == 0)
                    clear_sums();
                else
                    load_sums(sums);
                multiply(w, (const char *)packed + (g * steps + s) * STEP_BYTES, stop - s, tokens - t <= RK_TILE_ROWS, &next,
                         lines);
                store_sums(sums);
                if (stop == steps) write_sums(sums, (float)m->scale, (float *)y_ + t * ldy + row, ldy, m->rows - row, tokens - t);
            }
        }
    }
    rk_tiles_end();
}

static void round_bf16(const void *x_, void *out_, ptrdiff_t n)
{
    const float *x = x_;
    uint16_t *out = out_;
    for (ptrdiff_t i = 0; i < n; i++) out[i] = rk_f32_to_bf16(x[i]);
}

/* Tokens from which tiles are used: a whole tile. Not measured: fewer may pay, or only more. */
#define LEAST_TOKENS RK_TILE_ROWS

void RK_CAT(rk_bf16, RK_NAME)(rk_table *table)
{
    table->bf16 = (rk_ops){
        .itemsize = sizeof(uint16_t), .sumsize = sizeof(float), .lanes = STEP_COLS, .panel_rows = PANEL,
        .panel_tokens = PANEL, .few_tokens = LEAST_TOKENS, .pack_token = pack_token, .panels = panels,
        .scratch = scratch_bytes, .round = round_bf16,
    };
    table->f32.bf16 = &table->bf16;
}
