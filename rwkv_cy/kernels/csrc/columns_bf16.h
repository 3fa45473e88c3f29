/* Products with a transposed matrix in bf16 by the CPU's dot products, two columns at a time: columns_body.h has the
 * plan, and adds the lanes.
 *
 * The sum is that of matrix_body.h with the same instruction, bit for bit: for each output, lane l accumulates the
 * pairs of columns l, l + PAIR_LANES, l + 2 PAIR_LANES, ... one after the other. A pair of inputs that are both zero is
 * not read: the instruction would add zeros, and leaves no sum that is subnormal for it to flush. */

enum {
    PAIR_LANES = RK_VECTOR_BYTES / 4,   /* pairs in a vector, and outputs in one of sums */
    PAIR_OUTPUTS = RK_VECTOR_BYTES / 2, /* outputs in a vector of weights */
    PAIRS_TOGETHER = 4,                 /* that share one reading and one writing of the sums */
};

typedef struct {
    const uint16_t *even[PAIRS_TOGETHER], *odd[PAIRS_TOGETHER]; /* columns; odd is NULL behind the last one */
    __m512i x[PAIRS_TOGETHER][RK_COLUMN_TOKENS];
    int count;
} pairs;

/* The next pairs of a lane, from column *k on, whose inputs are not all zero. */
static inline __attribute__((always_inline)) void next_pairs(const rk_matrix *m, const uint16_t *x, const int tokens,
                                                             ptrdiff_t *k, pairs *found)
{
    found->count = 0;
    for (; *k < m->cols && found->count < PAIRS_TOGETHER; *k += 2 * PAIR_LANES) {
        const int both = *k + 1 < m->cols;
        uint32_t inputs[RK_COLUMN_TOKENS], any = 0;
        for (int t = 0; t < tokens; t++) {
            const uint16_t *own = x + t * m->cols + *k;
            inputs[t] = own[0] | (both ? (uint32_t)own[1] << 16 : 0);
            any |= inputs[t];
        }
        if ((any & 0x7fff7fffu) == 0) continue; /* NaN is not zero */
        found->even[found->count] = (const uint16_t *)m->data + *k * m->rows;
        found->odd[found->count] = both ? found->even[found->count] + m->rows : NULL;
        for (int t = 0; t < tokens; t++) found->x[found->count][t] = _mm512_set1_epi32((int)inputs[t]);
        found->count++;
    }
}

/* sums [tokens][rows] += pairs * x: `count` pairs from number `from` on (`count` and `tokens` are constants after
 * inlining), while those of `next` are asked for. */
static inline __attribute__((always_inline)) void add_pairs(const pairs *now, int from, const int count,
                                                            const pairs *next, const int tokens, ptrdiff_t rows,
                                                            float *sums)
{
    /* Two outputs of both columns in turns, sixteen outputs in order, come out of unpacking vectors so arranged. */
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    for (ptrdiff_t r = 0; r < rows; r += PAIR_OUTPUTS) {
        const ptrdiff_t left = rows - r;
        const __mmask32 there = left < PAIR_OUTPUTS ? ((__mmask32)1 << left) - 1 : ~(__mmask32)0;
        const __mmask16 first = (__mmask16)there, second = (__mmask16)(there >> PAIR_LANES);
        __m512i low[PAIRS_TOGETHER], high[PAIRS_TOGETHER];
        for (int i = 0; i < next->count; i++) {
            __builtin_prefetch(next->even[i] + r);
            if (next->odd[i] != NULL) __builtin_prefetch(next->odd[i] + r);
        }
        for (int i = 0; i < count; i++) {
            const uint16_t *even = now->even[from + i], *odd = now->odd[from + i];
            __m512i a = _mm512_maskz_loadu_epi16(there, even + r), b = _mm512_setzero_si512();
            if (odd != NULL) b = _mm512_maskz_loadu_epi16(there, odd + r);
            a = _mm512_permutexvar_epi64(order, a);
            b = _mm512_permutexvar_epi64(order, b);
            low[i] = _mm512_unpacklo_epi16(a, b);
            high[i] = _mm512_unpackhi_epi16(a, b);
        }
        for (int t = 0; t < tokens; t++) {
            float *own = sums + t * rows + r;
            rk_vf32 sum_low = (rk_vf32)_mm512_maskz_loadu_ps(first, own);
            rk_vf32 sum_high = (rk_vf32)_mm512_maskz_loadu_ps(second, own + PAIR_LANES);
            for (int i = 0; i < count; i++) {
                sum_low = RK_DOT_BF16(low[i], now->x[from + i][t], sum_low);
                sum_high = RK_DOT_BF16(high[i], now->x[from + i][t], sum_high);
            }
            _mm512_mask_storeu_ps(own, first, (__m512)sum_low);
            _mm512_mask_storeu_ps(own + PAIR_LANES, second, (__m512)sum_high);
        }
    }
}

/* Lanes begin..end for a number of tokens that is a constant after inlining. */
static inline __attribute__((always_inline)) void pair_lanes(const rk_matrix *m, const uint16_t *x, const int tokens,
                                                             float *sums, ptrdiff_t begin, ptrdiff_t end)
{
    for (ptrdiff_t lane = begin; lane < end; lane++) {
        float *own = sums + lane * tokens * m->rows;
        pairs inputs[2];
        ptrdiff_t k = 2 * lane;
        memset(own, 0, (size_t)(tokens * m->rows) * sizeof(float));
        next_pairs(m, x, tokens, &k, &inputs[0]);
        for (int turn = 0; inputs[turn].count > 0; turn = !turn) {
            const pairs *now = &inputs[turn], *next = &inputs[!turn];
            next_pairs(m, x, tokens, &k, &inputs[!turn]);
            if (now->count == PAIRS_TOGETHER)
                add_pairs(now, 0, PAIRS_TOGETHER, next, tokens, m->rows, own);
            else
                for (int i = 0; i < now->count; i++) add_pairs(now, i, 1, next, tokens, m->rows, own);
        }
    }
}

static void columns_bf16(const rk_matrix *m, const void *x, int tokens, void *sums, ptrdiff_t begin, ptrdiff_t end)
{
    switch (tokens) {
    case 1: pair_lanes(m, x, 1, sums, begin, end); return;
    case 2: pair_lanes(m, x, 2, sums, begin, end); return;
    case 3: pair_lanes(m, x, 3, sums, begin, end); return;
    default: pair_lanes(m, x, RK_COLUMN_TOKENS, sums, begin, end); return;
    }
}
