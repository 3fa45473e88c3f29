/* Products of several quantized tokens with a quantized matrix, in tiles of sixteen rows and up to four tokens. Part of
 * quantized_body.h.
 *
 * Weights are unpacked to integers once for all tokens. Integer sums are exact in any order, and float sums follow as in
 * quantized_body.h, in the same order, so that the results are the same to the last bit. */

#define TILE_TOKENS 4
#define TOGETHER 1
#define PARTS (RK_Q_ROWS / RK_Q_LANES)

/* A run of weights and a tile of its tokens fit in the L1 cache. */
#define RUN_BYTES 10240

/* An unpacked block: for each step, integers of each of the sixteen rows, in 32 bits a row; then their scales as floats,
 * and minimums or, for q4n, zeros. A step has four columns in bytes. For q8, whose integers are widened to 16 bits, it has
 * two: first the even ones of each four, then, in as many steps, the odd ones. */
static inline int steps_of(int dtype) { return dtype == RK_Q8 ? RK_Q8_COLS / 2 : (int)rk_q_cols(dtype) / 4; }

#define STEP_BYTES (4 * RK_Q_ROWS)
static inline ptrdiff_t scales_at(int dtype) { return steps_of(dtype) * STEP_BYTES; }
static inline ptrdiff_t weight_bytes(int dtype) { return scales_at(dtype) + 2 * STEP_BYTES; }
static inline ptrdiff_t run_blocks(int dtype) { return RUN_BYTES / weight_bytes(dtype); }

/* A packed block of tokens: the scale of each, its sum (for q4n, that of its integers), and for each step the integers of
 * each, in 32 bits. */
#define TOKEN_HEAD (8 * TILE_TOKENS)
static inline ptrdiff_t token_bytes(int dtype) { return TOKEN_HEAD + steps_of(dtype) * 4 * TILE_TOKENS; }

static ptrdiff_t packed_bytes(int dtype) { return token_bytes(dtype) / TILE_TOKENS; }

/* Quantize and pack token t, block by block; dtype is a constant after inlining. */
static inline __attribute__((always_inline)) void pack_blocks(const float *x, const int dtype, ptrdiff_t cols, ptrdiff_t t,
                                                              char *packed)
{
    const ptrdiff_t width = rk_q_cols(dtype), blocks = rk_q_blocks(dtype, cols), place = t % TILE_TOKENS;
    char *out = packed + t / TILE_TOKENS * blocks * token_bytes(dtype);
    for (ptrdiff_t b = 0; b < blocks; b++, out += token_bytes(dtype)) {
        const ptrdiff_t count = cols - b * width;
        const float *from = x + b * width;
        float part[RK_AFFINE_COLS] = {0};
        int8_t q[RK_AFFINE_COLS];
        int16_t wide[RK_Q8_COLS], *even = wide, *odd = wide + RK_Q8_COLS / 2;
        int32_t total;
        if (count < width) from = memcpy(part, from, (size_t)count * sizeof(float));
        const float scale = rk_quantize_integers(from, width, q, &total), sum = scale * (float)total;
        memcpy(out + 4 * place, &scale, 4);
        memcpy(out + 4 * (TILE_TOKENS + place), rk_q_affine(dtype) ? (const void *)&sum : &total, 4);
        if (dtype == RK_Q8) {
            for (int i = 0; i < width / 2; i++) even[i] = q[2 * i], odd[i] = q[2 * i + 1];
        }
        const char *steps = dtype == RK_Q8 ? (const char *)even : (const char *)q;
        for (int i = 0; i < steps_of(dtype); i++)
            memcpy(out + TOKEN_HEAD + 4 * (TILE_TOKENS * i + place), steps + 4 * i, 4);
    }
}

/* NULL stands for a token that fills the last tile; its place is not read. */
static void pack_token(const void *x, int dtype, ptrdiff_t cols, ptrdiff_t tokens, ptrdiff_t t, void *packed)
{
    (void)tokens;
    if (x == NULL) return;
    switch (dtype) {
    case RK_Q8: pack_blocks(x, RK_Q8, cols, t, packed); break;
    case RK_Q4N: pack_blocks(x, RK_Q4N, cols, t, packed); break;
    default: pack_blocks(x, RK_Q4, cols, t, packed); break; /* as q6 */
    }
}

/* Unpack `count` blocks of a group; dtype is a constant after inlining. */
static inline __attribute__((always_inline)) void unpack_blocks(const uint8_t *block, const int dtype, ptrdiff_t count,
                                                                char *out)
{
    for (ptrdiff_t b = 0; b < count; b++, block += rk_q_bytes(dtype), out += weight_bytes(dtype)) {
        for (int p = 0; p < PARTS; p++) {
            const uint16_t *words = (const uint16_t *)block + RK_Q_LANES * p;
            const ptrdiff_t lane = 4 * RK_Q_LANES * p;
            char *scales = out + scales_at(dtype) + lane;
            RK_QF_STORE((float *)scales, dtype == RK_Q4N ? RK_QF_SCALE(words) : RK_QF_F16(words));
            if (dtype == RK_Q4N) RK_QW_STORE(scales + STEP_BYTES, RK_QI_ZERO(words));
            if (rk_q_affine(dtype)) RK_QF_STORE((float *)(scales + STEP_BYTES), RK_QF_F16(words + RK_Q_ROWS));
            for (int i = 0; i < rk_q_runs(dtype); i++) {
                const rk_qw v = RK_QW_LOAD(block + rk_q_head(dtype) + 64 * i + lane);
                rk_qw first = dtype == RK_Q8 ? RK_QW_EVEN(v) : RK_QW_LOW(v);
                rk_qw second = dtype == RK_Q8 ? RK_QW_ODD(v) : RK_QW_HIGH(v);
                if (dtype == RK_Q4N) first = RK_QW_LEVEL(first), second = RK_QW_LEVEL(second);
                if (dtype == RK_Q6) {
                    const rk_qw upper = RK_QW_LOAD(block + RK_Q6_UPPER + 64 * (i / 2) + lane);
                    first = i % 2 ? RK_QW_JOIN(first, upper, 2) : RK_QW_JOIN(first, upper, 0);
                    second = i % 2 ? RK_QW_JOIN(second, upper, 3) : RK_QW_JOIN(second, upper, 1);
                }
                const int step = dtype == RK_Q8 ? i : 2 * i, next = dtype == RK_Q8 ? i + RK_Q8_COLS / 4 : step + 1;
                RK_QW_STORE(out + STEP_BYTES * step + lane, first);
                RK_QW_STORE(out + STEP_BYTES * next + lane, second);
            }
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

/* Steps whose sums fit in 16 bits: a sum of two products is at most 30 * 127 for q4, 126 * 127 for q6 and q4n. For q8, all
 * steps: its sums have 32 bits. */
static inline int short_steps(int dtype) { return dtype == RK_Q8 ? steps_of(dtype) : dtype == RK_Q4 ? 8 : 2; }

static inline rk_qi product_of(const int dtype, rk_qw w, rk_qx x)
{
    return dtype == RK_Q8 ? RK_QI_PAIRS(w, x) : RK_QH_FOURS(w, x);
}

/* In one order: a compiler that chooses its own keeps all products until the end, in memory. */
static inline rk_qi sum_of(const int dtype, rk_qi sum, rk_qi product)
{
    return RK_QI_IN_ORDER(dtype == RK_Q8 ? RK_QI_ADD(sum, product) : RK_QH_ADD(sum, product));
}

/* dot += the integer sums of short_steps steps from `from` on. */
static inline __attribute__((always_inline)) void add_steps(const char *w, const char *x, const int dtype, const int from,
                                                            const int tokens, rk_qi dot[TILE_TOKENS][PARTS])
{
    rk_qi sums[TILE_TOKENS][PARTS];
#pragma GCC unroll 16
    for (int i = from; i < from + short_steps(dtype); i++) {
        rk_qw rows[PARTS];
        for (int p = 0; p < PARTS; p++)
            rows[p] = RK_QW_LOAD((const uint8_t *)w + STEP_BYTES * i + 4 * RK_Q_LANES * p);
#pragma GCC unroll 4
        for (int t = 0; t < tokens; t++) {
            const rk_qx token = RK_QX_SET(Q_(int)(x + TOKEN_HEAD + 4 * (TILE_TOKENS * i + t)));
            for (int p = 0; p < PARTS; p++) {
                const rk_qi product = product_of(dtype, rows[p], token);
                sums[t][p] = i == from ? product : sum_of(dtype, sums[t][p], product);
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++) {
        for (int p = 0; p < PARTS; p++) {
            const rk_qi sum = dtype == RK_Q8 ? sums[t][p] : RK_QI_HALVES(sums[t][p]);
            dot[t][p] = from == 0 && dtype != RK_Q4N ? sum : RK_QI_IN_ORDER(RK_QI_ADD(dot[t][p], sum));
        }
    }
}

/* What p points to stays in memory, so that registers are left for integer sums. */
static inline void leave_in_memory(float *p) { __asm__ volatile("" : : "r"(p) : "memory"); }

/* Sixteen rows times `tokens` tokens over `count` blocks, added to `acc`; tokens and dtype are constants after
 * inlining. */
static inline __attribute__((always_inline)) void add_blocks(const char *w, const char *x, ptrdiff_t count,
                                                             const int dtype, const int tokens, float *acc)
{
    for (ptrdiff_t b = 0; b < count; b++, w += weight_bytes(dtype), x += token_bytes(dtype)) {
        const char *scales = w + scales_at(dtype), *others = scales + STEP_BYTES, *own = x + 4 * TILE_TOKENS;
        rk_qi dot[TILE_TOKENS][PARTS];
#pragma GCC unroll 4
        for (int t = 0; t < tokens; t++)
            for (int p = 0; p < PARTS; p++)
                if (dtype == RK_Q4N)
                    dot[t][p] = RK_QI_TIMES(RK_QI_LOAD(others + 4 * RK_Q_LANES * p), -Q_(int)(own + 4 * t));
#pragma GCC unroll 16
        for (int i = 0; i < steps_of(dtype); i += short_steps(dtype)) add_steps(w, x, dtype, i, tokens, dot);
#pragma GCC unroll 4
        for (int t = 0; t < tokens; t++) {
            for (int p = 0; p < PARTS; p++) {
                float *at = acc + RK_Q_ROWS * t + RK_Q_LANES * p;
                const rk_qf scale = RK_QF_MUL(RK_QF_LOAD(scales + 4 * RK_Q_LANES * p), RK_QF_SET(Q_(float)(x + 4 * t)));
                /* acc += (scale * x.scale) * sum of q * x.q; for affine types also + minimum * x.sum */
                rk_qf sum = RK_QF_FMA(scale, RK_QF_OF(dot[t][p]), RK_QF_LOAD(at));
                if (rk_q_affine(dtype))
                    sum = RK_QF_FMA(RK_QF_LOAD(others + 4 * RK_Q_LANES * p), RK_QF_SET(Q_(float)(own + 4 * t)), sum);
                RK_QF_STORE(at, sum);
            }
        }
        leave_in_memory(acc);
    }
}

static inline __attribute__((always_inline)) void add_blocks_of(const char *w, const char *x, ptrdiff_t count,
                                                                const int dtype, ptrdiff_t tokens, float *acc)
{
    switch (tokens) {
    case 1: add_blocks(w, x, count, dtype, 1, acc); break;
    case 2: add_blocks(w, x, count, dtype, 2, acc); break;
    case 3: add_blocks(w, x, count, dtype, 3, acc); break;
    default: add_blocks(w, x, count, dtype, 4, acc); break;
    }
}

/* Sums of `tokens` tokens and `rows` rows, from y to acc; sixteen rows apart there. */
static inline __attribute__((always_inline)) void get_sums(float *acc, const float *y, ptrdiff_t ldy, ptrdiff_t rows,
                                                           ptrdiff_t tokens)
{
    for (ptrdiff_t t = 0; t < tokens; t++) memcpy(acc + RK_Q_ROWS * t, y + t * ldy, (size_t)rows * sizeof *y);
}

static inline __attribute__((always_inline)) void put_sums(float *y, ptrdiff_t ldy, const float *acc, float scale,
                                                           ptrdiff_t rows, ptrdiff_t tokens)
{
    for (ptrdiff_t t = 0; t < tokens; t++)
        for (ptrdiff_t r = 0; r < rows; r++) y[t * ldy + r] = acc[RK_Q_ROWS * t + r] * scale;
}

/* One tile of the result, y[token][row], of which `rows` and `tokens` exist; sums of earlier runs are in y. */
static void add_tile(const char *w, const char *x, ptrdiff_t count, int dtype, int first, float scale, float *y,
                     ptrdiff_t ldy, ptrdiff_t rows, ptrdiff_t tokens)
{
    float acc[TILE_TOKENS * RK_Q_ROWS] __attribute__((aligned(64))) = {0};
    if (tokens > TILE_TOKENS) tokens = TILE_TOKENS;
    if (!first && rows >= RK_Q_ROWS)
        get_sums(acc, y, ldy, RK_Q_ROWS, tokens);
    else if (!first)
        get_sums(acc, y, ldy, rows, tokens);
    switch (dtype) {
    case RK_Q8: add_blocks_of(w, x, count, RK_Q8, tokens, acc); break;
    case RK_Q6: add_blocks_of(w, x, count, RK_Q6, tokens, acc); break;
    case RK_Q4: add_blocks_of(w, x, count, RK_Q4, tokens, acc); break;
    case RK_Q4N: add_blocks_of(w, x, count, RK_Q4N, tokens, acc); break;
    }
    if (rows >= RK_Q_ROWS)
        put_sums(y, ldy, acc, scale, RK_Q_ROWS, tokens);
    else
        put_sums(y, ldy, acc, scale, rows, tokens);
}

#include "families/runs_body.h"

static void tile_groups(const rk_matrix *m, const void *packed, ptrdiff_t tokens, void *y, ptrdiff_t ldy, ptrdiff_t begin,
                        ptrdiff_t end, void *scratch, rk_states_ahead *states)
{
    multiply_runs(m, packed, tokens, y, ldy, begin, end, scratch, states);
}

static void use_tiles(rk_table *table)
{
    table->tiles = (rk_ops){
        .itemsize = sizeof(float), .sumsize = sizeof(float), .lanes = 1, .few_tokens = RK_Q_TILES_FROM,
        .whole_tokens = TILE_TOKENS, .wide_groups = TOGETHER, .packed_bytes = packed_bytes,
        .quantize_token = pack_token, .groups = tile_groups, .scratch = scratch_bytes,
    };
    table->f32.tiles = &table->tiles;
}
