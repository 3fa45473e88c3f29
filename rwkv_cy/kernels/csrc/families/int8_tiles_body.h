/* Products of many quantized tokens with a quantized matrix, by tiles that multiply bytes. Include a header of tiles
 * before.
 *
 * A block of a group is stored as a tile needs it: a row has four integers of each of sixteen rows (quant.h). So one tile
 * product computes the integer sums of sixteen tokens and sixteen rows over a block; float sums follow as in
 * quantized_body.h, in the same order, so that the results are the same to the last bit. */
#include "codec/quant.h"
#include "codec/quant_integers.h"
#include "families/names.h"

#define TILE_TOKENS RK_TILE_ROWS
/* Columns of a run: its tokens stay in the L1 cache while they are multiplied with TOGETHER groups. */
#define RUN_COLS 1024
#define TOGETHER 4

/* The form in which the blocks of a run are multiplied: all rows of integers, then the scales and minimums as floats. */
#define SCALES(width) ((width) * RK_Q_ROWS)
#define MINIMUMS(width) (SCALES(width) + RK_TILE_BYTES)
#define BLOCK_BYTES(width) (MINIMUMS(width) + RK_TILE_BYTES)

/* Tokens are packed in tiles of sixteen. A block of a tile: the integers of each token, then their scales and sums. */
#define TOKEN_SCALES(width) (TILE_TOKENS * (width))
#define TOKEN_SUMS(width) (TOKEN_SCALES(width) + TILE_TOKENS * 4)
#define TOKEN_BYTES(width) (TOKEN_SUMS(width) + TILE_TOKENS * 4)

/* Quantize and pack token t, block by block; width is a constant after inlining. */
static inline __attribute__((always_inline)) void pack_blocks(const float *x, const ptrdiff_t width, ptrdiff_t cols,
                                                              ptrdiff_t t, char *packed)
{
    const ptrdiff_t blocks = (cols + width - 1) / width, place = t % TILE_TOKENS;
    char *out = packed + t / TILE_TOKENS * blocks * TOKEN_BYTES(width);
    for (ptrdiff_t b = 0; b < blocks; b++, out += TOKEN_BYTES(width)) {
        const ptrdiff_t count = x == NULL ? 0 : cols - b * width < width ? cols - b * width : width;
        float part[RK_AFFINE_COLS] = {0};
        if (count > 0) memcpy(part, x + b * width, (size_t)count * sizeof(float));
        int32_t total;
        const float scale = rk_quantize_integers(part, width, (int8_t *)out + place * width, &total);
        const float sum = scale * (float)total;
        memcpy(out + TOKEN_SCALES(width) + 4 * place, &scale, 4);
        memcpy(out + TOKEN_SUMS(width) + 4 * place, &sum, 4);
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

static inline rk_tb load_bytes(const uint8_t *p)
{
    rk_tb v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline rk_tf load_floats(const void *p)
{
    rk_tf v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* What the words of a block of q4n hold: the scales, and zero four times in each lane. */
static inline void unpack_words(const uint8_t *block, rk_tf *scale, rk_tu *zero)
{
    uint16_t scales[RK_Q_ROWS];
    for (int r = 0; r < RK_Q_ROWS; r++) {
        uint16_t word;
        memcpy(&word, block + 2 * r, sizeof word);
        scales[r] = word >> 1 & RK_SCALE_MASK;
        (*zero)[r] = (uint32_t)(word & RK_ZERO_MASK) * 0x01010101u;
    }
    *scale = RK_TF_F16(scales);
}

/* Unpack `count` blocks of a group, for all tokens; dtype is a constant after inlining. */
static inline __attribute__((always_inline)) void unpack_blocks(const uint8_t *block, const int dtype, ptrdiff_t count,
                                                                char *out)
{
    const ptrdiff_t width = rk_q_cols(dtype);
    for (ptrdiff_t b = 0; b < count; b++, block += rk_q_bytes(dtype), out += BLOCK_BYTES(width)) {
        const uint8_t *values = block + rk_q_head(dtype);
        rk_tf scale;
        rk_tu zero = {0};
        if (dtype == RK_Q4N)
            unpack_words(block, &scale, &zero);
        else
            scale = RK_TF_F16((const uint16_t *)block);
        memcpy(out + SCALES(width), &scale, sizeof scale);
        if (rk_q_affine(dtype)) {
            const rk_tf minimum = RK_TF_F16((const uint16_t *)block + RK_Q_ROWS);
            memcpy(out + MINIMUMS(width), &minimum, sizeof minimum);
        }
        if (!rk_q_halves(dtype)) {
            memcpy(out, values, RK_Q8_COLS * RK_Q_ROWS);
            continue;
        }
#pragma GCC unroll 8
        for (int i = 0; i < rk_q_runs(dtype); i++) {
            const rk_tb both = load_bytes(values + 64 * i);
            rk_tb first = both & 15, second = both >> 4;
            if (dtype == RK_Q4N) first = RK_TB_LEVEL(first) - (rk_tb)zero, second = RK_TB_LEVEL(second) - (rk_tb)zero;
            if (dtype == RK_Q6) {
                const rk_tb upper = load_bytes(block + RK_Q6_UPPER + 64 * (i / 2)) >> 4 * (i % 2);
                first |= (upper & 3) << 4, second |= (upper & 12) << 2;
            }
            memcpy(out + 128 * i, &first, sizeof first);
            memcpy(out + 128 * i + 64, &second, sizeof second);
        }
    }
}

static void unpack(const uint8_t *from, int dtype, ptrdiff_t count, char *out)
{
    switch (dtype) {
    case RK_Q8: unpack_blocks(from, RK_Q8, count, out); break;
    case RK_Q6: unpack_blocks(from, RK_Q6, count, out); break;
    case RK_Q4: unpack_blocks(from, RK_Q4, count, out); break;
    case RK_Q4N: unpack_blocks(from, RK_Q4N, count, out); break;
    }
}

/* The integer sums of one block, in tiles c, a and b. */
#define INTEGER_SUMS(c, a, b, w, x, sums)                                                                              \
    do {                                                                                                               \
        RK_TILE_ZERO(c);                                                                                               \
        RK_TILE_LOAD(a, x, width);                                                                                     \
        RK_TILE_LOAD(b, w, RK_TILE_BYTES);                                                                             \
        if (affine)                                                                                                    \
            RK_TILE_DOT_SU(c, a, b);                                                                                   \
        else                                                                                                           \
            RK_TILE_DOT_SS(c, a, b);                                                                                   \
        RK_TILE_STORE(c, sums, RK_TILE_BYTES);                                                                         \
    } while (0)

/* acc += (scale * x.scale) * sum of q * x.q; for affine types also + minimum * x.sum */
static inline __attribute__((always_inline)) void add_block(const char *w, const char *x, const ptrdiff_t width,
                                                            const int affine, const int32_t *sums,
                                                            rk_tf acc[TILE_TOKENS])
{
    const rk_tf scale = load_floats(w + SCALES(width)), minimum = affine ? load_floats(w + MINIMUMS(width)) : scale;
    const float *scales = (const float *)(x + TOKEN_SCALES(width)), *totals = (const float *)(x + TOKEN_SUMS(width));
#pragma GCC unroll 16
    for (int t = 0; t < TILE_TOKENS; t++) {
        rk_ti sum;
        memcpy(&sum, sums + t * RK_Q_ROWS, sizeof sum);
        acc[t] = RK_TF_FMA(scale * scales[t], __builtin_convertvector(sum, rk_tf), acc[t]);
        if (affine) acc[t] = RK_TF_FMA(minimum, (rk_tf){0} + totals[t], acc[t]);
    }
}

/* Sixteen rows times sixteen tokens over `count` blocks. The integer sums of a block are computed while the previous
 * ones are used. width and affine are constants after inlining. */
static inline __attribute__((always_inline)) void multiply_blocks(const char *w, const char *x, ptrdiff_t count,
                                                                  const ptrdiff_t width, const int affine,
                                                                  rk_tf acc[TILE_TOKENS])
{
    enum { SUMS = TILE_TOKENS * RK_Q_ROWS };
    int32_t even[SUMS] __attribute__((aligned(64))), odd[SUMS] __attribute__((aligned(64)));
    const ptrdiff_t w_next = BLOCK_BYTES(width), x_next = TOKEN_BYTES(width);
    INTEGER_SUMS(0, 1, 2, w, x, even);
    for (; count >= 2; count -= 2, w += 2 * w_next, x += 2 * x_next) {
        INTEGER_SUMS(3, 4, 5, w + w_next, x + x_next, odd);
        add_block(w, x, width, affine, even, acc);
        if (count > 2) INTEGER_SUMS(0, 1, 2, w + 2 * w_next, x + 2 * x_next, even);
        add_block(w + w_next, x + x_next, width, affine, odd, acc);
    }
    if (count) add_block(w, x, width, affine, even, acc);
}

/* The sums of one token in y, of which `rows` exist. Copies of their own, so that the compiler keeps all of `acc` in
 * registers. */
static inline rk_tf get_sums(const float *y, ptrdiff_t rows)
{
    rk_tf v = {0};
    if (rows >= RK_Q_ROWS) return load_floats(y);
    memcpy(&v, y, (size_t)rows * sizeof(float));
    return v;
}

static inline void put_sums(float *y, rk_tf v, ptrdiff_t rows)
{
    if (rows >= RK_Q_ROWS)
        memcpy(y, &v, sizeof v);
    else
        memcpy(y, &v, (size_t)rows * sizeof(float));
}

/* One tile of the result, y[token][row], of which `rows` and `tokens` exist; sums of earlier runs are in y. */
static void add_tile(const char *w, const char *x, ptrdiff_t count, int dtype, int first, float scale, float *y,
                     ptrdiff_t ldy, ptrdiff_t rows, ptrdiff_t tokens)
{
    rk_tf acc[TILE_TOKENS];
#pragma GCC unroll 16
    for (int t = 0; t < TILE_TOKENS; t++) {
        acc[t] = !first && t < tokens ? get_sums(y + t * ldy, rows) : (rk_tf){0};
    }
    if (rk_q_affine(dtype))
        multiply_blocks(w, x, count, RK_AFFINE_COLS, 1, acc);
    else
        multiply_blocks(w, x, count, RK_Q8_COLS, 0, acc);
#pragma GCC unroll 16
    for (int t = 0; t < TILE_TOKENS; t++) {
        if (t < tokens) put_sums(y + t * ldy, acc[t] * scale, rows);
    }
}

/* Tiles 0 to 2 and 3 to 5: sums, tokens and weights of a block. */
static rk_tile_shapes shapes_of(ptrdiff_t width)
{
    rk_tile_shapes shapes = {.palette = 1};
    for (int t = 0; t < 6; t++) {
        shapes.rows[t] = (uint8_t)(t % 3 == 2 ? width / 4 : RK_TILE_ROWS);
        shapes.row_bytes[t] = (uint16_t)(t % 3 == 1 ? width : RK_TILE_BYTES);
    }
    return shapes;
}

static ptrdiff_t run_blocks(int dtype) { return RUN_COLS / rk_q_cols(dtype); }
static ptrdiff_t weight_bytes(int dtype) { return BLOCK_BYTES(rk_q_cols(dtype)); }
static ptrdiff_t token_bytes(int dtype) { return TOKEN_BYTES(rk_q_cols(dtype)); }

#include "families/runs_body.h"

static void groups(const rk_matrix *m, const void *packed, ptrdiff_t tokens, void *y, ptrdiff_t ldy, ptrdiff_t begin,
                   ptrdiff_t end, void *scratch, rk_states_ahead *states)
{
    const rk_tile_shapes shapes = shapes_of(rk_q_cols(m->dtype));
    rk_tiles_begin(&shapes);
    multiply_runs(m, packed, tokens, y, ldy, begin, end, scratch, states);
    rk_tiles_end();
}

static ptrdiff_t packed_bytes(int dtype) { return token_bytes(dtype) / TILE_TOKENS; }

/* Tokens from which tiles are used: a whole tile. Not measured: fewer may pay, or only more. */
#define LEAST_TOKENS TILE_TOKENS

void RK_CAT(rk_int8, RK_NAME)(rk_table *table)
{
    table->tiles = (rk_ops){
        .itemsize = sizeof(float), .sumsize = sizeof(float), .lanes = 1, .few_tokens = LEAST_TOKENS,
        .whole_tokens = TILE_TOKENS, .wide_groups = TOGETHER, .packed_bytes = packed_bytes,
        .quantize_token = quantize_token, .groups = groups, .scratch = scratch_bytes,
    };
    table->f32.tiles = &table->tiles;
}
