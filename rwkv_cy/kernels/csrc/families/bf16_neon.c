/* Products of many rounded activations with a bf16 matrix, for NEON with products of matrices of bf16.
 *
 * The instruction multiplies two tokens of four columns with two rows. Eight tokens and eight rows stay in registers over
 * a run of columns; between runs, their sums are in the result. It adds four products at a time, rounded in its own way,
 * so this is a mode in which one token and many differ. */
#include "rk.h"
#include "isa/compiler.h"

#if defined(__aarch64__) && RK_KNOWS_ARM_PRODUCTS
#include "families/names.h"
#include "gemm/ahead.h"
#include "scalar.h"
#include "isa/target_neonbf16.h"

/* Rows, tokens and columns that are packed together: [four columns][row or token][column]. */
enum { BLOCK = 8, BLOCK_WORDS = BLOCK * BLOCK };
/* Rows of a panel and columns of a run: together they take most of an L1 cache. Not measured. */
enum { PANEL_ROWS = 32, RUN_BLOCKS = 32 };
/* Pairs of tokens, and of rows, of a tile: a vector of sums has a pair of each. */
enum { PAIRS = BLOCK / 2, SUMS = PAIRS * PAIRS };

static ptrdiff_t blocks_of(ptrdiff_t n) { return (n + BLOCK - 1) / BLOCK; }

static size_t scratch_bytes(const rk_matrix *m, ptrdiff_t tokens)
{
    (void)m, (void)tokens;
    return PANEL_ROWS / BLOCK * RUN_BLOCKS * BLOCK_WORDS * sizeof(uint16_t);
}

static void pack_token(const void *x, ptrdiff_t cols, ptrdiff_t place, void *group)
{
    uint16_t *out = (uint16_t *)group + 4 * place;
    for (ptrdiff_t k = 0; k < cols; k += BLOCK, out += BLOCK_WORDS) {
        uint16_t words[BLOCK] = {0};
        const ptrdiff_t count = cols - k < BLOCK ? cols - k : BLOCK;
        if (x != NULL) memcpy(words, (const uint16_t *)x + k, (size_t)count * sizeof *words);
        memcpy(out, words, sizeof words / 2);
        memcpy(out + BLOCK_WORDS / 2, words + 4, sizeof words / 2);
    }
}

/* Transpose eight rows of eight words: each round interleaves the first four with the last four. */
static inline __attribute__((always_inline)) void transpose(uint16x8_t v[BLOCK])
{
#pragma GCC unroll 3
    for (int round = 0; round < 3; round++) {
        uint16x8_t w[BLOCK];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            w[2 * j] = vzip1q_u16(v[j], v[j + 4]);
            w[2 * j + 1] = vzip2q_u16(v[j], v[j + 4]);
        }
#pragma GCC unroll 8
        for (int j = 0; j < BLOCK; j++) v[j] = w[j];
    }
}

/* Pack eight columns of eight rows; zeros beyond the matrix. */
static inline void pack_block(const rk_matrix *m, ptrdiff_t row, ptrdiff_t k, uint16_t *out)
{
    const ptrdiff_t rows = m->rows - row < BLOCK ? m->rows - row : BLOCK;
    const ptrdiff_t columns = m->cols - k < BLOCK ? m->cols - k : BLOCK;
    ptrdiff_t stride = m->transposed ? m->rows : m->cols;
    const uint16_t *from = (const uint16_t *)m->data + (m->transposed ? k * stride + row : row * stride + k);
    uint16_t edge[BLOCK][BLOCK];
    uint16x8_t v[BLOCK];
    if (rows < BLOCK || columns < BLOCK) {
        const ptrdiff_t lines = m->transposed ? columns : rows, count = m->transposed ? rows : columns;
        memset(edge, 0, sizeof edge);
        for (ptrdiff_t i = 0; i < lines && count > 0; i++) memcpy(edge[i], from + i * stride, (size_t)count * sizeof *from);
        from = edge[0], stride = BLOCK;
    }
#pragma GCC unroll 8
    for (int i = 0; i < BLOCK; i++) v[i] = vld1q_u16(from + i * stride);
    if (m->transposed) transpose(v);
#pragma GCC unroll 4
    for (int i = 0; i < BLOCK; i += 2) {
        const uint64x2_t a = vreinterpretq_u64_u16(v[i]), b = vreinterpretq_u64_u16(v[i + 1]);
        vst1q_u16(out + 4 * i, vreinterpretq_u16_u64(vzip1q_u64(a, b)));
        vst1q_u16(out + BLOCK_WORDS / 2 + 4 * i, vreinterpretq_u16_u64(vzip2q_u64(a, b)));
    }
}

static inline float32x4_t join_low(float32x4_t a, float32x4_t b)
{
    return vcombine_f32(vget_low_f32(a), vget_low_f32(b));
}

static inline float32x4_t join_high(float32x4_t a, float32x4_t b)
{
    return vcombine_f32(vget_high_f32(a), vget_high_f32(b));
}

/* A vector of sums has two rows of the first token, then of the second; rows of y have four rows of one token. Joining
 * halves turns either pair of vectors into the other. */
static inline __attribute__((always_inline)) void read_sums(float32x4_t acc[SUMS], const float *y, ptrdiff_t ldy)
{
#pragma GCC unroll 4
    for (int t = 0; t < PAIRS; t++)
#pragma GCC unroll 2
        for (int r = 0; r < PAIRS; r += 2) {
            const float32x4_t a = vld1q_f32(y + 2 * t * ldy + 2 * r), b = vld1q_f32(y + (2 * t + 1) * ldy + 2 * r);
            acc[PAIRS * t + r] = join_low(a, b);
            acc[PAIRS * t + r + 1] = join_high(a, b);
        }
}

static inline __attribute__((always_inline)) void write_sums(const float32x4_t acc[SUMS], float scale, float *y,
                                                             ptrdiff_t ldy)
{
#pragma GCC unroll 4
    for (int t = 0; t < PAIRS; t++)
#pragma GCC unroll 2
        for (int r = 0; r < PAIRS; r += 2) {
            const float32x4_t a = acc[PAIRS * t + r], b = acc[PAIRS * t + r + 1];
            vst1q_f32(y + 2 * t * ldy + 2 * r, vmulq_n_f32(join_low(a, b), scale));
            vst1q_f32(y + (2 * t + 1) * ldy + 2 * r, vmulq_n_f32(join_high(a, b), scale));
        }
}

/* Eight rows times eight tokens over `count` blocks of columns, at least one; sums of earlier runs are in y. */
static void whole_tile(const uint16_t *w, const uint16_t *x, ptrdiff_t count, int first, float scale, float *y,
                       ptrdiff_t ldy)
{
    float32x4_t acc[SUMS];
    if (first)
        for (int i = 0; i < SUMS; i++) acc[i] = vdupq_n_f32(0);
    else
        read_sums(acc, y, ldy);
    ptrdiff_t steps = 2 * count;
    do {
        bfloat16x8_t tokens[PAIRS];
#pragma GCC unroll 4
        for (int t = 0; t < PAIRS; t++) tokens[t] = vreinterpretq_bf16_u16(vld1q_u16(x + 8 * t));
#pragma GCC unroll 4
        for (int r = 0; r < PAIRS; r++) {
            const bfloat16x8_t rows = vreinterpretq_bf16_u16(vld1q_u16(w + 8 * r));
#pragma GCC unroll 4
            for (int t = 0; t < PAIRS; t++) acc[PAIRS * t + r] = vbfmmlaq_f32(acc[PAIRS * t + r], tokens[t], rows);
        }
        w += BLOCK_WORDS / 2, x += BLOCK_WORDS / 2;
    } while (--steps > 0);
    write_sums(acc, scale, y, ldy);
}

/* The same of a result that has only `rows` rows and `tokens` tokens. */
static void part_tile(const uint16_t *w, const uint16_t *x, ptrdiff_t count, int first, float scale, float *y,
                      ptrdiff_t ldy, ptrdiff_t rows, ptrdiff_t tokens)
{
    float part[BLOCK][BLOCK] = {{0}};
    const size_t bytes = (size_t)(rows < BLOCK ? rows : BLOCK) * sizeof(float);
    for (ptrdiff_t t = 0; !first && t < BLOCK && t < tokens; t++) memcpy(part[t], y + t * ldy, bytes);
    whole_tile(w, x, count, first, scale, part[0], BLOCK);
    for (ptrdiff_t t = 0; t < BLOCK && t < tokens; t++) memcpy(y + t * ldy, part[t], bytes);
}

/* For each panel of rows and each run of columns: pack the run, then multiply it with every group of tokens. */
static void panels(const rk_matrix *m, const void *packed, ptrdiff_t tokens, void *y_, ptrdiff_t ldy, ptrdiff_t begin,
                   ptrdiff_t end, void *scratch)
{
    const ptrdiff_t blocks = blocks_of(m->cols), groups = blocks_of(tokens);
    uint16_t *w = scratch;
    for (ptrdiff_t row = begin * PANEL_ROWS; row < end * PANEL_ROWS; row += PANEL_ROWS) {
        const ptrdiff_t tiles = m->rows - row < PANEL_ROWS ? blocks_of(m->rows - row) : PANEL_ROWS / BLOCK;
        for (ptrdiff_t b = 0, stop; b < blocks; b = stop) {
            stop = blocks - b < RUN_BLOCKS ? blocks : b + RUN_BLOCKS;
            const ptrdiff_t apart = (stop - b) * BLOCK_WORDS;
            const float scale = stop == blocks ? (float)m->scale : 1;
            for (ptrdiff_t i = 0; i < tiles; i++)
                for (ptrdiff_t k = b; k < stop; k++)
                    pack_block(m, row + i * BLOCK, k * BLOCK, w + i * apart + (k - b) * BLOCK_WORDS);
            /* Packed next, so prefetched now: the next run of these rows, or the first run of the next ones. */
            rk_ahead next = stop == blocks ? rk_ahead_of(m, row + PANEL_ROWS, PANEL_ROWS, 0, RUN_BLOCKS * BLOCK)
                                           : rk_ahead_of(m, row, PANEL_ROWS, stop * BLOCK, RUN_BLOCKS * BLOCK);
            const ptrdiff_t lines = next.rows * (next.bytes / 64 + 1) / (groups * tiles) + 1;
            for (ptrdiff_t g = 0; g < groups; g++) {
                const uint16_t *x = (const uint16_t *)packed + (g * blocks + b) * BLOCK_WORDS;
                for (ptrdiff_t i = 0; i < tiles; i++) {
                    const ptrdiff_t rows = m->rows - row - i * BLOCK, left = tokens - g * BLOCK;
                    float *y = (float *)y_ + g * BLOCK * ldy + row + i * BLOCK;
                    rk_prefetch_lines(&next, lines);
                    if (rows >= BLOCK && left >= BLOCK)
                        whole_tile(w + i * apart, x, stop - b, b == 0, scale, y, ldy);
                    else
                        part_tile(w + i * apart, x, stop - b, b == 0, scale, y, ldy, rows, left);
                }
            }
        }
    }
}

static void round_bf16(const void *x_, void *out_, ptrdiff_t n)
{
    const float *x = x_;
    uint16_t *out = out_;
    for (ptrdiff_t i = 0; i < n; i++) out[i] = rk_f32_to_bf16(x[i]);
}

void rk_bf16_neon(rk_table *table)
{
    /* From one tile of tokens on. Not measured. */
    table->bf16 = (rk_ops){
        .itemsize = sizeof(uint16_t), .sumsize = sizeof(float), .lanes = BLOCK, .panel_rows = PANEL_ROWS,
        .panel_tokens = BLOCK, .few_tokens = BLOCK, .pack_token = pack_token, .panels = panels,
        .scratch = scratch_bytes, .round = round_bf16,
    };
    table->f32.bf16 = &table->bf16;
}

#include "isa/target_end.h"
#endif
