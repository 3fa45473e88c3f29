/* Products with a quantized matrix, for one instruction set: integers times integers, one float step a block.
 *
 * The order of the float sums is that of the blocks, in every path and for every number of tokens and threads. */

/* Tokens begin..end of x [tokens, cols], quantized block by block. */
static void quantize_tokens(const void *x_, int dtype, ptrdiff_t cols, void *packed, ptrdiff_t begin, ptrdiff_t end)
{
    const ptrdiff_t width = rk_q_cols(dtype), blocks = rk_q_blocks(dtype, cols), bytes = rk_x_bytes(dtype);
    for (ptrdiff_t t = begin; t < end; t++) {
        const float *x = (const float *)x_ + t * cols;
        for (ptrdiff_t b = 0; b < blocks; b++) {
            char *out = (char *)packed + (t * blocks + b) * bytes;
            int8_t *q = (int8_t *)(out + sizeof(rk_x_block));
            ptrdiff_t count = cols - b * width < width ? cols - b * width : width;
            float part[RK_Q4_COLS] = {0};
            int32_t bits = 0;
            memcpy(part, x + b * width, (size_t)count * sizeof(float));
            /* Without their signs, floats are in the order of their bits, NaN above infinity: it is not lost. */
            for (ptrdiff_t i = 0; i < width; i++) {
                int32_t magnitude = (int32_t)(rk_f32_to_bits(part[i]) & 0x7fffffffu);
                bits = magnitude > bits ? magnitude : bits;
            }
            float largest = rk_bits_to_f32((uint32_t)bits);
            float inverse = largest > 0 ? 127.0f / largest : 0;
            inverse = inverse > 0x1p+120f ? 0 : inverse;
            int32_t total = 0;
            for (ptrdiff_t i = 0; i < width; i++) {
                /* Adding 1.5 * 2^23 leaves the nearest integer in the low bits. */
                float shifted = part[i] * inverse + 0x1.8p23f;
                q[i] = (int8_t)rk_f32_to_bits(shifted);
                total += q[i];
            }
            rk_x_block head = {largest / 127.0f, 0, total, 0};
            head.sum = head.step * (float)total;
            memcpy(out, &head, sizeof head);
        }
    }
}

/* Four activations in every lane. */
static inline rk_qx Q_(broadcast)(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return RK_QX_SET(four);
}

/* One group times `count` tokens (a constant after inlining); q4 is a constant too. */
static inline __attribute__((always_inline)) void Q_(group)(const char *w, int q4, ptrdiff_t blocks, const char *x,
                                                            ptrdiff_t token_bytes, const int count,
                                                            float sums[][RK_Q_ROWS], int ask)
{
    enum { PARTS = RK_Q_ROWS / RK_Q_LANES };
    const int dtype = q4 ? RK_Q4 : RK_Q8;
    rk_qf acc[RK_Q_TOKENS][PARTS];
    for (int t = 0; t < count; t++)
        for (int p = 0; p < PARTS; p++) acc[t][p] = RK_QF_ZERO();
    for (ptrdiff_t b = 0; b < blocks; b++, w += rk_q_bytes(dtype), x += rk_x_bytes(dtype)) {
        const uint16_t *steps = (const uint16_t *)w;
        const uint8_t *values = (const uint8_t *)w + (q4 ? 4 : 2) * RK_Q_ROWS;
        /* Two sums of integers for a single token, so that one does not wait for the other. */
        const int chains = count == 1 ? 2 : 1;
        rk_qi dot[RK_Q_TOKENS][2][PARTS];
        rk_x_block head[RK_Q_TOKENS];
        for (int t = 0; t < count; t++) {
            memcpy(&head[t], x + t * token_bytes, sizeof(rk_x_block));
            for (int p = 0; p < PARTS; p++) {
                dot[t][0][p] = q4 ? RK_QI_SET(0) : RK_QI_SET(RK_Q8_START(head[t].total));
                dot[t][1][p] = RK_QI_SET(0);
            }
        }
        for (int i = 0; i < 8; i++) {
            for (int p = 0; p < PARTS; p++) {
                rk_qw v = RK_QW_LOAD(values + 64 * i + 4 * RK_Q_LANES * p);
                if (ask && p == 0) __builtin_prefetch(values + 64 * i + (size_t)blocks * (size_t)rk_q_bytes(dtype), 0, 2);
                for (int t = 0; t < count; t++) {
                    const int8_t *q = (const int8_t *)(x + t * token_bytes + sizeof(rk_x_block));
                    if (q4) {
                        dot[t][0][p] = RK_QI_DOT4(dot[t][0][p], RK_QW_LOW(v), Q_(broadcast)(q + 8 * i));
                        dot[t][chains - 1][p] =
                            RK_QI_DOT4(dot[t][chains - 1][p], RK_QW_HIGH(v), Q_(broadcast)(q + 8 * i + 4));
                    } else {
                        dot[t][i & (chains - 1)][p] =
                            RK_QI_DOT8(dot[t][i & (chains - 1)][p], v, Q_(broadcast)(q + 4 * i));
                    }
                }
            }
        }
        for (int p = 0; p < PARTS; p++) {
            rk_qf step = RK_QF_F16(steps + RK_Q_LANES * p);
            rk_qf least = q4 ? RK_QF_F16(steps + RK_Q_ROWS + RK_Q_LANES * p) : RK_QF_ZERO();
            for (int t = 0; t < count; t++) {
                rk_qi total = chains == 2 ? RK_QI_ADD(dot[t][0][p], dot[t][1][p]) : dot[t][0][p];
                /* acc += (step * x.step) * sum of q x.q;  and for q4: + least * x.sum */
                acc[t][p] = RK_QF_FMA(RK_QF_MUL(step, RK_QF_SET(head[t].step)), RK_QF_OF(total), acc[t][p]);
                if (q4) acc[t][p] = RK_QF_FMA(least, RK_QF_SET(head[t].sum), acc[t][p]);
            }
        }
    }
    for (int t = 0; t < count; t++)
        for (int p = 0; p < PARTS; p++) RK_QF_STORE(&sums[t][RK_Q_LANES * p], acc[t][p]);
}

static inline __attribute__((always_inline)) void Q_(groups_of)(const rk_matrix *m, int q4, const char *packed,
                                                                ptrdiff_t tokens, float *y, ptrdiff_t ldy,
                                                                ptrdiff_t begin, ptrdiff_t end)
{
    const int dtype = q4 ? RK_Q4 : RK_Q8;
    const ptrdiff_t blocks = rk_q_blocks(dtype, m->cols);
    const ptrdiff_t token_bytes = blocks * rk_x_bytes(dtype);
    for (ptrdiff_t g = begin; g < end; g++) {
        const char *w = (const char *)m->data + g * blocks * rk_q_bytes(dtype);
        ptrdiff_t rows = m->rows - g * RK_Q_ROWS < RK_Q_ROWS ? m->rows - g * RK_Q_ROWS : RK_Q_ROWS;
        for (ptrdiff_t t = 0; t < tokens;) {
            float sums[RK_Q_TOKENS][RK_Q_ROWS];
            const char *x = packed + t * token_bytes;
            int count = tokens - t >= RK_Q_TOKENS ? RK_Q_TOKENS : 1;
            if (count == RK_Q_TOKENS)
                Q_(group)(w, q4, blocks, x, token_bytes, RK_Q_TOKENS, sums, t == 0);
            else
                Q_(group)(w, q4, blocks, x, token_bytes, 1, sums, 0);
            for (int j = 0; j < count; j++)
                for (ptrdiff_t r = 0; r < rows; r++)
                    y[(t + j) * ldy + g * RK_Q_ROWS + r] = sums[j][r] * (float)m->scale;
            t += count;
        }
    }
}

/* y[t, r] = scale * sum_k m[r, k] * x[t, k] for groups begin..end of a quantized matrix and quantized tokens. */
static void groups(const rk_matrix *m, const void *packed, ptrdiff_t tokens, void *y, ptrdiff_t ldy, ptrdiff_t begin,
                   ptrdiff_t end)
{
    if (m->dtype == RK_Q4)
        Q_(groups_of)(m, 1, packed, tokens, y, ldy, begin, end);
    else
        Q_(groups_of)(m, 0, packed, tokens, y, ldy, begin, end);
}
