/* Products of many quantized tokens with a quantized matrix, by dot products of bytes in registers. Include simd_neon.h,
 * quant_neon_rows.h and a header of dot products before.
 *
 * Weights are unpacked once for all tokens, one run of columns at a time. Eight rows and four tokens stay in registers
 * over a run; between runs, their sums are in the result. Float sums follow the integer sums of each block as in
 * quantized_body.h, in the same order, so that the results are the same to the last bit. */
#include "codec/quant.h"
#include "codec/quant_integers.h"
#include "families/names.h"
#include "gemm/ahead.h"

/* Columns of a run, and groups that share a pass over the tokens: their weights take most of an L1 cache. Not measured. */
#define RUN_COLS 512
#define TOGETHER 2

/* A block of eight rows, unpacked: the integers, then scales and minimums. */
#define SCALES(width) ((width) * RK_DOT_ROWS)
#define BLOCK_BYTES(width) (SCALES(width) + 2 * RK_DOT_SCALES * (ptrdiff_t)sizeof(float))
/* A block of four tokens: the integers, then scales and sums. */
#define TOKEN_SCALES(width) ((width) * RK_DOT_TOKENS)
#define TOKEN_BYTES(width) (TOKEN_SCALES(width) + 2 * RK_DOT_TOKENS * (ptrdiff_t)sizeof(float))

enum { HALVES = RK_Q_ROWS / RK_DOT_ROWS };

static size_t scratch_bytes(const rk_matrix *m, ptrdiff_t tokens)
{
    (void)tokens;
    const ptrdiff_t width = rk_q_cols(m->dtype);
    return (size_t)(TOGETHER * HALVES * (RUN_COLS / width) * BLOCK_BYTES(width));
}

/* Quantize and pack token t, block by block; width is a constant after inlining. */
static inline __attribute__((always_inline)) void pack_blocks(const float *x, const ptrdiff_t width, ptrdiff_t cols,
                                                              ptrdiff_t t, char *packed)
{
    const ptrdiff_t blocks = (cols + width - 1) / width, place = t % RK_DOT_TOKENS;
    char *out = packed + t / RK_DOT_TOKENS * blocks * TOKEN_BYTES(width);
    for (ptrdiff_t b = 0; b < blocks; b++, out += TOKEN_BYTES(width)) {
        const ptrdiff_t count = x == NULL ? 0 : cols - b * width < width ? cols - b * width : width;
        float part[RK_AFFINE_COLS] = {0};
        int8_t q[RK_AFFINE_COLS];
        if (count > 0) memcpy(part, x + b * width, (size_t)count * sizeof(float));
        int32_t total;
        const float scale = rk_quantize_integers(part, width, q, &total);
        const float sum = scale * (float)total;
        memcpy(out + TOKEN_SCALES(width) + 4 * place, &scale, 4);
        memcpy(out + TOKEN_SCALES(width) + 4 * (RK_DOT_TOKENS + place), &sum, 4);
        for (ptrdiff_t k = 0; k < width; k += RK_DOT_BYTES)
            memcpy(out + k * RK_DOT_TOKENS + place * RK_DOT_BYTES, q + k, RK_DOT_BYTES);
    }
}

static void quantize_token(const void *x, int dtype, ptrdiff_t cols, ptrdiff_t tokens, ptrdiff_t t, void *packed)
{
    (void)tokens;
    if (rk_q_affine(dtype))
        pack_blocks(x, RK_AFFINE_COLS, cols, t, packed);
    else
        pack_blocks(x, RK_Q8_COLS, cols, t, packed);
}

/* Columns 8 i to 8 i + 7 of four rows of a block, from row `row` on; dtype is a constant after inlining. */
static inline __attribute__((always_inline)) rk_dot_rows unpack_rows(const uint8_t *block, const int dtype, int i, int row)
{
    const uint8_t *values = block + rk_q_head(dtype) + 4 * row;
    if (!rk_q_halves(dtype))
        return (rk_dot_rows){vld1q_s8((const int8_t *)values + 128 * i), vld1q_s8((const int8_t *)values + 128 * i + 64)};
    rk_qw both, upper;
    memcpy(&both, values + 64 * i, sizeof both);
    rk_qw first = both & 15, second = both >> 4;
    if (dtype == RK_Q4N) {
        /* Zero four times in each lane. */
        const rk_qw zero = (rk_qw)(rk_qi_zero((const uint16_t *)block + row) * 0x01010101);
        first = rk_qw_level(first) - zero, second = rk_qw_level(second) - zero;
    }
    if (dtype == RK_Q6) {
        memcpy(&upper, block + RK_Q6_UPPER + 64 * (i / 2) + 4 * row, sizeof upper);
        first = rk_qw_join(first, upper, 2 * (i % 2)), second = rk_qw_join(second, upper, 2 * (i % 2) + 1);
    }
    return (rk_dot_rows){(int8x16_t)first, (int8x16_t)second};
}

/* Unpack `count` blocks of eight rows of a group, from row `row` on; dtype is a constant after inlining. */
static inline __attribute__((always_inline)) void unpack_blocks(const uint8_t *block, const int dtype, int row,
                                                                ptrdiff_t count, char *out)
{
    const ptrdiff_t width = rk_q_cols(dtype);
    for (ptrdiff_t b = 0; b < count; b++, block += rk_q_bytes(dtype), out += BLOCK_BYTES(width)) {
        const uint16_t *words = (const uint16_t *)block + row;
        float *scales = (float *)(out + SCALES(width));
#pragma GCC unroll 8
        for (int i = 0; i < width / 8; i++)
            rk_dots_pack(unpack_rows(block, dtype, i, row), unpack_rows(block, dtype, i, row + 4), (int8_t *)out + 64 * i);
        if (dtype == RK_Q4N)
            rk_dots_pack_scales((float32x4_t)rk_qf_scale(words), (float32x4_t)rk_qf_scale(words + 4), scales);
        else
            rk_dots_pack_scales((float32x4_t)rk_load_f16(words), (float32x4_t)rk_load_f16(words + 4), scales);
        if (rk_q_affine(dtype))
            rk_dots_pack_scales((float32x4_t)rk_load_f16(words + RK_Q_ROWS), (float32x4_t)rk_load_f16(words + RK_Q_ROWS + 4),
                                scales + RK_DOT_SCALES);
    }
}

static void unpack(const rk_matrix *m, ptrdiff_t group, int row, ptrdiff_t block, ptrdiff_t count, char *out)
{
    const uint8_t *from =
        (const uint8_t *)m->data + (group * rk_q_blocks(m->dtype, m->cols) + block) * rk_q_bytes(m->dtype);
    switch (m->dtype) {
    case RK_Q8: unpack_blocks(from, RK_Q8, row, count, out); break;
    case RK_Q6: unpack_blocks(from, RK_Q6, row, count, out); break;
    case RK_Q4: unpack_blocks(from, RK_Q4, row, count, out); break;
    case RK_Q4N: unpack_blocks(from, RK_Q4N, row, count, out); break;
    }
}

/* Eight rows times four tokens over `count` blocks; dtype is a constant after inlining. */
static inline __attribute__((always_inline)) void multiply_blocks(const char *w, const char *x, ptrdiff_t count,
                                                                  const int dtype, float32x4_t acc[RK_DOT_SUMS])
{
    const ptrdiff_t width = rk_q_cols(dtype);
    const int affine = rk_q_affine(dtype), small = rk_q_halves(dtype);
    for (; count > 0; count--, w += BLOCK_BYTES(width), x += TOKEN_BYTES(width)) {
        int32x4_t sums[RK_DOT_SUMS];
        for (int j = 0; j < RK_DOT_SUMS; j++) sums[j] = vdupq_n_s32(0);
        RK_DOTS_UNROLL
        for (int i = 0; i < width / 8; i++) rk_dots_add(sums, (const int8_t *)w + 64 * i, (const int8_t *)x + 32 * i, small);
        rk_dots_scale(acc, sums, (const float *)(w + SCALES(width)), (const float *)(x + TOKEN_SCALES(width)), affine);
    }
}

/* Eight rows and four tokens of the result; sums of earlier runs are in y. */
static void whole_tile(const char *w, const char *x, ptrdiff_t count, int dtype, int first, float scale, float *y,
                       ptrdiff_t ldy)
{
    float32x4_t acc[RK_DOT_SUMS];
    if (first)
        for (int j = 0; j < RK_DOT_SUMS; j++) acc[j] = vdupq_n_f32(0);
    else
        rk_dots_read(acc, y, ldy);
    if (rk_q_affine(dtype))
        multiply_blocks(w, x, count, RK_Q4, acc);
    else if (rk_q_halves(dtype))
        multiply_blocks(w, x, count, RK_Q4N, acc);
    else
        multiply_blocks(w, x, count, RK_Q8, acc);
    rk_dots_write(acc, scale, y, ldy);
}

/* The same of a result that has only `rows` rows, at least one, and `tokens` tokens. */
static void part_tile(const char *w, const char *x, ptrdiff_t count, int dtype, int first, float scale, float *y,
                      ptrdiff_t ldy, ptrdiff_t rows, ptrdiff_t tokens)
{
    float part[RK_DOT_TOKENS][RK_DOT_ROWS] = {{0}};
    const size_t bytes = (size_t)(rows < RK_DOT_ROWS ? rows : RK_DOT_ROWS) * sizeof(float);
    for (ptrdiff_t t = 0; !first && t < RK_DOT_TOKENS && t < tokens; t++) memcpy(part[t], y + t * ldy, bytes);
    whole_tile(w, x, count, dtype, first, scale, part[0], RK_DOT_ROWS);
    for (ptrdiff_t t = 0; t < RK_DOT_TOKENS && t < tokens; t++) memcpy(y + t * ldy, part[t], bytes);
}

/* y[t, r] = scale * sum_k m[r, k] * x[t, k] for groups begin..end of a quantized matrix and quantized tokens. */
static void groups(const rk_matrix *m, const void *packed, ptrdiff_t tokens, void *y_, ptrdiff_t ldy, ptrdiff_t begin,
                   ptrdiff_t end, void *scratch, rk_states_ahead *states)
{
    const ptrdiff_t width = rk_q_cols(m->dtype), blocks = rk_q_blocks(m->dtype, m->cols), run = RUN_COLS / width;
    const ptrdiff_t tiles = (tokens + RK_DOT_TOKENS - 1) / RK_DOT_TOKENS, apart = run * BLOCK_BYTES(width);
    const float scale = (float)m->scale * rk_q_unit(m->dtype);
    const ptrdiff_t state_lines = rk_state_lines(states, tiles * (end - begin) * HALVES * ((blocks + run - 1) / run));
    char *w = scratch;
    for (ptrdiff_t g = begin; g < end; g += TOGETHER) {
        const ptrdiff_t wide = end - g < TOGETHER ? end - g : TOGETHER;
        for (ptrdiff_t b = 0, stop; b < blocks; b = stop) {
            stop = blocks - b < run ? blocks : b + run;
            for (ptrdiff_t i = 0; i < wide * HALVES; i++)
                unpack(m, g + i / HALVES, (int)(i % HALVES) * RK_DOT_ROWS, b, stop - b, w + i * apart);
            rk_ahead next = rk_ahead_of_groups(m, g, wide, end, stop, run);
            const ptrdiff_t lines = next.rows * (next.bytes / 64 + 1) / (tiles * wide * HALVES) + 1;
            for (ptrdiff_t t = 0; t < tiles; t++) {
                const char *x = (const char *)packed + (t * blocks + b) * TOKEN_BYTES(width);
                for (ptrdiff_t i = 0; i < wide * HALVES; i++) {
                    const ptrdiff_t row = g * RK_Q_ROWS + i * RK_DOT_ROWS, token = t * RK_DOT_TOKENS;
                    const ptrdiff_t rows = m->rows - row, left = tokens - token;
                    float *y = (float *)y_ + token * ldy + row;
                    const float last = stop == blocks ? scale : 1;
                    rk_prefetch_lines(&next, lines);
                    rk_prefetch_states(states, state_lines);
                    if (rows >= RK_DOT_ROWS && left >= RK_DOT_TOKENS)
                        whole_tile(w + i * apart, x, stop - b, m->dtype, b == 0, last, y, ldy);
                    else if (rows > 0)
                        part_tile(w + i * apart, x, stop - b, m->dtype, b == 0, last, y, ldy, rows, left);
                }
            }
        }
    }
}

void RK_CAT(rk_int8, RK_NAME)(rk_table *table)
{
    table->tiles = (rk_ops){
        .itemsize = sizeof(float), .sumsize = sizeof(float), .lanes = 1, .few_tokens = RK_DOT_TOKENS,
        .whole_tokens = RK_DOT_TOKENS, .wide_groups = TOGETHER, .packed_bytes = rk_x_bytes,
        .quantize_token = quantize_token, .groups = groups, .scratch = scratch_bytes,
    };
    table->f32.tiles = &table->tiles;
}
