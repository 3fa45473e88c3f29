/* Products with a quantized matrix whose blocks are unpacked once for all tokens, a run of columns at a time. Include
 * after the definitions of:
 *
 *   TILE_TOKENS, TOGETHER    tokens of a tile, groups that are unpacked together
 *   run_blocks(dtype)        blocks of a run
 *   weight_bytes(dtype)      bytes of an unpacked block of a group
 *   token_bytes(dtype)       bytes of a packed block of a tile of tokens
 *   unpack, add_tile         as they are called below
 */
#include "gemm/ahead.h"

static size_t scratch_bytes(const rk_matrix *m, ptrdiff_t tokens)
{
    (void)tokens;
    return (size_t)(TOGETHER * run_blocks(m->dtype) * weight_bytes(m->dtype));
}

/* y[t, r] = scale * sum_k m[r, k] * x[t, k] for groups begin..end of a quantized matrix and quantized tokens. Between
 * runs, sums are in y. */
static void multiply_runs(const rk_matrix *m, const void *packed, ptrdiff_t tokens, float *y, ptrdiff_t ldy,
                          ptrdiff_t begin, ptrdiff_t end, char *w, rk_states_ahead *states)
{
    const ptrdiff_t blocks = rk_q_blocks(m->dtype, m->cols), run = run_blocks(m->dtype);
    const ptrdiff_t tiles = (tokens + TILE_TOKENS - 1) / TILE_TOKENS, apart = run * weight_bytes(m->dtype);
    const float scale = (float)m->scale * rk_q_unit(m->dtype);
    const ptrdiff_t state_lines = rk_state_lines(states, tiles * (end - begin) * ((blocks + run - 1) / run));
    for (ptrdiff_t g = begin; g < end; g += TOGETHER) {
        const ptrdiff_t wide = end - g < TOGETHER ? end - g : TOGETHER;
        for (ptrdiff_t b = 0, stop; b < blocks; b = stop) {
            stop = blocks - b < run ? blocks : b + run;
            for (ptrdiff_t i = 0; i < wide; i++) {
                const uint8_t *from = (const uint8_t *)m->data + ((g + i) * blocks + b) * rk_q_bytes(m->dtype);
                unpack(from, m->dtype, stop - b, w + i * apart);
            }
            rk_ahead next = rk_ahead_of_groups(m, g, wide, end, stop, run);
            const ptrdiff_t lines = next.rows * (next.bytes / 64 + 1) / (tiles * wide) + 1;
            for (ptrdiff_t t = 0; t < tiles; t++) {
                const char *x = (const char *)packed + (t * blocks + b) * token_bytes(m->dtype);
                for (ptrdiff_t i = 0; i < wide; i++) {
                    const ptrdiff_t row = (g + i) * RK_Q_ROWS, token = t * TILE_TOKENS;
                    rk_prefetch_lines(&next, lines);
                    rk_prefetch_states(states, state_lines);
                    add_tile(w + i * apart, x, stop - b, m->dtype, b == 0, stop == blocks ? scale : 1,
                             y + token * ldy + row, ldy, m->rows - row, tokens - token);
                }
            }
        }
    }
}
