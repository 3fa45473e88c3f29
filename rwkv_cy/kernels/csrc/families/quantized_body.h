/* Products with a quantized matrix, for one instruction set: integer dot products, and one float multiply-add per
 * block.
 *
 * Float sums are in the order of the blocks, on every path and for every number of tokens and threads. */
#include "families/names.h"
#include "codec/quant.h"
#include "codec/quant_integers.h"
#include "gemm/ahead.h"

#define Q_(name) quant_##name

#if !defined(RK_QI_IN_ORDER)
#define RK_QI_IN_ORDER(v) (v)
#endif

#define ABREAST 16 /* blocks of activations that are quantized side by side */
#define RK_Q_MOST (RK_Q_WIDE > 2 ? RK_Q_WIDE : 2) /* groups of a tile */

/* How many tokens the next tile has if `left` remain. */
static inline int Q_(together)(ptrdiff_t left)
{
    if (left >= RK_Q_TOKENS) return RK_Q_TOKENS;
    return left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

/* Quantize and pack token t of `tokens`; dtype is a constant after inlining. The largest magnitudes of several blocks are
 * found first, because each is known only after a chain of comparisons, and a division. */
static inline __attribute__((always_inline)) void Q_(blocks_of)(const float *x, const int dtype, ptrdiff_t cols,
                                                                ptrdiff_t tokens, ptrdiff_t t, char *packed)
{
    const ptrdiff_t width = rk_q_cols(dtype), blocks = rk_q_blocks(dtype, cols), bytes = rk_x_bytes(dtype);
    ptrdiff_t first = t / RK_Q_TOKENS * RK_Q_TOKENS, together;
    while (together = Q_(together)(tokens - first), t >= first + together) first += together;
    const ptrdiff_t place = t - first;
    char *out = packed + first * blocks * bytes;
    for (ptrdiff_t b = 0; b < blocks; b += ABREAST) {
        const ptrdiff_t some = blocks - b < ABREAST ? blocks - b : ABREAST;
        const float *from[ABREAST];
        float part[RK_AFFINE_COLS], largest[ABREAST], inverse[ABREAST];
        for (ptrdiff_t i = 0; i < some; i++) {
            const ptrdiff_t count = cols - (b + i) * width;
            from[i] = x + (b + i) * width;
            if (count < width) {
                memset(part, 0, sizeof part);
                from[i] = memcpy(part, from[i], (size_t)count * sizeof(float));
            }
            largest[i] = rk_largest(from[i], width);
        }
        for (ptrdiff_t i = some; i < ABREAST; i++) largest[i] = 0;
        for (ptrdiff_t i = 0; i < ABREAST; i++) inverse[i] = rk_inverse_step(largest[i]);
        for (ptrdiff_t i = 0; i < some; i++, out += together * bytes) {
            int8_t q[RK_AFFINE_COLS];
            const int32_t total = rk_integers(from[i], width, inverse[i], q);
            const float step = rk_step(largest[i]), sum = step * (float)total;
            memcpy(out + 4 * place, &step, 4);
            memcpy(out + 4 * (together + place), &sum, 4);
            memcpy(out + 4 * (2 * together + place), &total, 4);
            char *to = out + RK_X_HEAD * together + 4 * place;
            if (together == 1)
                memcpy(to, q, (size_t)width);
            else
                for (ptrdiff_t k = 0; k < width / 4; k++) memcpy(to + 4 * k * together, q + 4 * k, 4);
        }
    }
}

static void quantize_token(const void *x, int dtype, ptrdiff_t cols, ptrdiff_t tokens, ptrdiff_t t, void *packed)
{
    if (rk_q_affine(dtype))
        Q_(blocks_of)(x, RK_Q4, cols, tokens, t, packed);
    else
        Q_(blocks_of)(x, RK_Q8, cols, tokens, t, packed);
}

static inline int32_t Q_(int)(const char *p)
{
    int32_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static inline float Q_(float)(const char *p)
{
    float value;
    memcpy(&value, p, sizeof value);
    return value;
}

/* The 16 bits that each row of vector p of `w` begins with, groups `apart` bytes from one to the next. */
static inline const uint16_t *Q_(word)(const char *w, ptrdiff_t apart, int p)
{
    enum { PARTS = RK_Q_ROWS / RK_Q_LANES };
    return (const uint16_t *)(w + (p / PARTS) * apart) + RK_Q_LANES * (p % PARTS);
}

/* `wide` groups, `apart` bytes from one to the next, times `count` tokens; wide, count and dtype are constants after
 * inlining. `prefetch`: whether to prefetch weights of few tokens. With many, `lines` cache lines from `ahead` on are
 * prefetched with each block, and `state_lines` of states. */
static inline __attribute__((always_inline)) void Q_(tile)(const char *w, const int dtype, const int wide,
                                                           ptrdiff_t blocks, ptrdiff_t apart, const char *x,
                                                           const int count, int prefetch,
                                                           const char *ahead, ptrdiff_t lines, rk_states_ahead *states,
                                                           ptrdiff_t state_lines, float sums[][RK_Q_MOST * RK_Q_ROWS])
{
    enum { PARTS = RK_Q_ROWS / RK_Q_LANES, MOST = RK_Q_MOST * PARTS };
    const int affine = rk_q_affine(dtype), halves = rk_q_halves(dtype), parts = wide * PARTS;
    /* Two independent integer sums for few tokens, to hide the latency of the additions. */
    const int few = count < RK_Q_TOKENS, chains = few ? 2 : 1;
    rk_qf acc[RK_Q_TOKENS][MOST];
    for (int t = 0; t < count; t++)
        for (int p = 0; p < parts; p++) acc[t][p] = RK_QF_ZERO();
    for (ptrdiff_t b = 0; b < blocks; b++, w += rk_q_bytes(dtype), x += count * rk_x_bytes(dtype)) {
        rk_qi dot[RK_Q_TOKENS][2][MOST];
        for (int t = 0; t < count; t++) {
            for (int p = 0; p < parts; p++) {
                const int32_t total = Q_(int)(x + 4 * (2 * count + t)); /* of the activations */
                dot[t][0][p] = dtype == RK_Q8    ? RK_QI_SET(RK_Q8_START(total))
                               : dtype == RK_Q4N ? RK_QI_TIMES(RK_QI_ZERO(Q_(word)(w, apart, p)), -total)
                                                 : RK_QI_SET(0);
                dot[t][1][p] = RK_QI_SET(0);
            }
        }
        /* Two interleaved streams defeat the hardware prefetcher: prefetch every line, 6 KiB ahead. */
        if (prefetch && few && dtype == RK_Q6)
            for (int i = 0; i < RK_Q6_BYTES / 64; i++) __builtin_prefetch(w + 6144 + 64 * i);
        if (!few) {
            for (ptrdiff_t i = 0; i < lines; i++, ahead += 64) __builtin_prefetch(ahead, 0, 2);
            rk_prefetch_states(states, state_lines);
        }
#pragma GCC unroll 8
        for (int i = 0; i < rk_q_runs(dtype); i++) {
            const uint8_t *values = (const uint8_t *)w + rk_q_head(dtype) + 64 * i;
            const uint8_t *uppers = (const uint8_t *)w + RK_Q6_UPPER + 64 * (i / 2);
            rk_qw first_values[MOST], second_values[MOST];
            /* One page ahead: hardware prefetch of one stream stops at page ends, and is a little late elsewhere. */
            if (prefetch && few && wide == 1 && dtype == RK_Q8 && count == 1)
                __builtin_prefetch(values + 4096, 0, 2);
            else if (prefetch && few && wide == 1 && dtype != RK_Q6)
                __builtin_prefetch(values + 4096);
            /* Pieces are short, and hardware prefetch has to find the two streams of each anew. */
            if (prefetch && few && wide == 2 && RK_Q_STREAMS_AHEAD(dtype))
                for (int g = 0; g < wide; g++) __builtin_prefetch(values + g * apart + 1024);
            for (int p = 0; p < parts; p++) {
                const ptrdiff_t place = (p / PARTS) * apart + 4 * RK_Q_LANES * (p % PARTS);
                rk_qw v = RK_QW_LOAD(values + place);
                first_values[p] = halves ? RK_QW_LOW(v) : v;
                second_values[p] = halves ? RK_QW_HIGH(v) : v;
                if (dtype == RK_Q4N) {
                    first_values[p] = RK_QW_LEVEL(first_values[p]);
                    second_values[p] = RK_QW_LEVEL(second_values[p]);
                }
                if (dtype == RK_Q6) {
                    rk_qw upper = RK_QW_LOAD(uppers + place);
                    first_values[p] = RK_QW_JOIN(first_values[p], upper, 2 * (i % 2));
                    second_values[p] = RK_QW_JOIN(second_values[p], upper, 2 * (i % 2) + 1);
                }
            }
            for (int t = 0; t < count; t++) {
                const char *q = x + RK_X_HEAD * count + 4 * ((halves ? 2 : 1) * i * count + t);
                rk_qx first = RK_QX_SET(Q_(int)(q));
                rk_qx second = halves ? RK_QX_SET(Q_(int)(q + 4 * count)) : first;
                for (int p = 0; p < parts; p++) {
                    const int chain = i & (chains - 1), odd = chains - 1;
                    if (halves && RK_Q_PAIRS) {
                        dot[t][0][p] = RK_QI_DOT_PAIR(dot[t][0][p], first_values[p], first, second_values[p], second);
                    } else if (halves) {
                        dot[t][0][p] = RK_QI_DOT4(dot[t][0][p], first_values[p], first);
                        dot[t][odd][p] = RK_QI_DOT4(dot[t][odd][p], second_values[p], second);
                        if (!few) dot[t][0][p] = RK_QI_IN_ORDER(dot[t][0][p]);
                    } else {
                        dot[t][chain][p] = RK_QI_DOT8(dot[t][chain][p], first_values[p], first);
                        if (!few) dot[t][chain][p] = RK_QI_IN_ORDER(dot[t][chain][p]);
                    }
                }
            }
        }
        for (int p = 0; p < parts; p++) {
            const uint16_t *steps = Q_(word)(w, apart, p);
            rk_qf step = dtype == RK_Q4N ? RK_QF_SCALE(steps) : RK_QF_F16(steps);
            rk_qf least = affine ? RK_QF_F16(steps + RK_Q_ROWS) : RK_QF_ZERO();
            for (int t = 0; t < count; t++) {
                rk_qi total = chains == 2 && !(halves && RK_Q_PAIRS) ? RK_QI_ADD(dot[t][0][p], dot[t][1][p]) : dot[t][0][p];
                /* acc += (scale * x.scale) * sum of q * x.q; for affine types also + minimum * x.sum */
                acc[t][p] = RK_QF_FMA(RK_QF_MUL(step, RK_QF_SET(Q_(float)(x + 4 * t))), RK_QF_OF(total), acc[t][p]);
                if (affine) acc[t][p] = RK_QF_FMA(least, RK_QF_SET(Q_(float)(x + 4 * (count + t))), acc[t][p]);
            }
        }
    }
    for (int t = 0; t < count; t++)
        for (int p = 0; p < parts; p++) RK_QF_STORE(&sums[t][RK_Q_LANES * p], acc[t][p]);
}

/* Scale the sums of a group, of whose rows the first `rows` exist. */
static inline __attribute__((always_inline)) void Q_(put_sums)(float *y, const float *sums, float scale, ptrdiff_t rows)
{
    if (rows >= RK_Q_ROWS)
        for (ptrdiff_t r = 0; r < RK_Q_ROWS; r++) y[r] = sums[r] * scale;
    else
        for (ptrdiff_t r = 0; r < rows; r++) y[r] = sums[r] * scale;
}

/* `wide` groups, `run` groups apart, from g on, times all tokens. */
static inline __attribute__((always_inline)) void Q_(groups_at)(const rk_matrix *m, const int dtype, const int wide,
                                                                const char *packed, ptrdiff_t tokens, float *y,
                                                                ptrdiff_t ldy, ptrdiff_t g, ptrdiff_t run,
                                                                rk_states_ahead *states, ptrdiff_t state_lines)
{
    const ptrdiff_t blocks = rk_q_blocks(dtype, m->cols);
    const ptrdiff_t token_bytes = blocks * rk_x_bytes(dtype);
    const ptrdiff_t apart = run * blocks * rk_q_bytes(dtype);
    const char *w = (const char *)m->data + g * blocks * rk_q_bytes(dtype);
    const float scale = (float)m->scale * rk_q_unit(dtype);
    /* Each tile of tokens prefetches its share of the next groups. */
    const ptrdiff_t tiles = (tokens + RK_Q_TOKENS - 1) / RK_Q_TOKENS;
    const ptrdiff_t spread = (wide * rk_q_bytes(dtype) / 64 + tiles - 1) / tiles;
    const char *ahead = w + wide * blocks * rk_q_bytes(dtype), *end = ahead + wide * blocks * rk_q_bytes(dtype);
    y += g * RK_Q_ROWS;
    for (ptrdiff_t t = 0; t < tokens;) {
        float sums[RK_Q_TOKENS][RK_Q_MOST * RK_Q_ROWS];
        const char *x = packed + t * token_bytes;
        const int count = Q_(together)(tokens - t), prefetch = t == 0;
        const ptrdiff_t lines = ahead < end ? spread : 0;
        /* Sums of many tokens are not in the caches when they are stored. */
        if (tokens > RK_Q_TOKENS)
            for (int j = 0; j < count; j++)
                for (int i = 0; i < wide; i++) __builtin_prefetch(y + (t + j) * ldy + i * run * RK_Q_ROWS, 1);
        if (count == RK_Q_TOKENS)
            Q_(tile)(w, dtype, wide, blocks, apart, x, RK_Q_TOKENS, 0, ahead, lines, states, state_lines, sums);
        else if (RK_Q_TOKENS > 4 && count == 4)
            Q_(tile)(w, dtype, wide, blocks, apart, x, RK_Q_TOKENS > 4 ? 4 : 1, prefetch, NULL, 0, NULL, 0, sums);
        else if (RK_Q_TOKENS > 2 && count == 2)
            Q_(tile)(w, dtype, wide, blocks, apart, x, RK_Q_TOKENS > 2 ? 2 : 1, prefetch, NULL, 0, NULL, 0, sums);
        else
            Q_(tile)(w, dtype, wide, blocks, apart, x, 1, prefetch, NULL, 0, NULL, 0, sums);
        for (int j = 0; j < count; j++) {
            for (int i = 0; i < wide; i++) {
                const ptrdiff_t row = i * run * RK_Q_ROWS;
                Q_(put_sums)(y + (t + j) * ldy + row, &sums[j][i * RK_Q_ROWS], scale, m->rows - g * RK_Q_ROWS - row);
            }
        }
        t += count;
        ahead += 64 * blocks * lines;
    }
}

static inline __attribute__((always_inline)) void Q_(groups_of)(const rk_matrix *m, const int dtype, const char *packed,
                                                                ptrdiff_t tokens, float *y, ptrdiff_t ldy,
                                                                ptrdiff_t begin, ptrdiff_t end, rk_states_ahead *states)
{
    /* Whole tiles prefetch. */
    const ptrdiff_t steps = tokens / RK_Q_TOKENS * ((end - begin) / RK_Q_WIDE) * rk_q_blocks(dtype, m->cols);
    const ptrdiff_t state_lines = rk_state_lines(states, steps);
    ptrdiff_t g = begin;
    /* With many tokens, several groups share each broadcast of activations; with few, weights stream contiguously. One
     * token streams them from two halves of the groups where that is faster. */
    if (tokens >= RK_Q_TOKENS)
        for (; g + RK_Q_WIDE <= end; g += RK_Q_WIDE)
            Q_(groups_at)(m, dtype, RK_Q_WIDE, packed, tokens, y, ldy, g, 1, states, state_lines);
    if (RK_Q_STREAMS(dtype) == 2 && tokens == 1) {
        const ptrdiff_t run = (end - begin) / 2;
        for (; g < begin + run; g++)
            Q_(groups_at)(m, dtype, 2, packed, tokens, y, ldy, g, run, states, state_lines);
        g = begin + 2 * run;
    }
    for (; g < end; g++) Q_(groups_at)(m, dtype, 1, packed, tokens, y, ldy, g, 1, states, state_lines);
}

/* y[t, r] = scale * sum_k m[r, k] * x[t, k] for groups begin..end of a quantized matrix and quantized tokens. */
static void groups(const rk_matrix *m, const void *packed, ptrdiff_t tokens, void *y, ptrdiff_t ldy, ptrdiff_t begin,
                   ptrdiff_t end, void *scratch, rk_states_ahead *states)
{
    (void)scratch;
    switch (m->dtype) {
    case RK_Q8: Q_(groups_of)(m, RK_Q8, packed, tokens, y, ldy, begin, end, states); break;
    case RK_Q6: Q_(groups_of)(m, RK_Q6, packed, tokens, y, ldy, begin, end, states); break;
    case RK_Q4N: Q_(groups_of)(m, RK_Q4N, packed, tokens, y, ldy, begin, end, states); break;
    case RK_Q4: Q_(groups_of)(m, RK_Q4, packed, tokens, y, ldy, begin, end, states); break;
    }
}

#if defined(RK_Q_TILES_FROM)
#include "families/quantized_tiles_body.h"
#endif

void RK_CAT(rk_quantized, RK_NAME)(rk_table *table)
{
    table->f32.packed_bytes = rk_x_bytes;
    table->f32.quantize_token = quantize_token;
    table->f32.groups = groups;
    table->f32.wide_groups = RK_Q_WIDE;
    table->f32.whole_tokens = 1;
#if defined(RK_Q_TILES_FROM)
    use_tiles(table);
#endif
}
