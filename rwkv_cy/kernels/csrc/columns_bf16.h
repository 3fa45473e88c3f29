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
    __m512i x[PAIRS_TOGETHER];
    int count;
} pairs;

/* The next pairs of a lane, from column *k on, whose inputs are not both zero. */
static inline pairs next_pairs(const rk_matrix *m, const uint16_t *x, ptrdiff_t *k)
{
    pairs found = {.count = 0};
    for (; *k < m->cols && found.count < PAIRS_TOGETHER; *k += 2 * PAIR_LANES) {
        const int both = *k + 1 < m->cols;
        const uint32_t inputs = x[*k] | (both ? (uint32_t)x[*k + 1] << 16 : 0);
        if ((inputs & 0x7fff7fffu) == 0) continue; /* NaN is not zero */
        found.even[found.count] = (const uint16_t *)m->data + *k * m->rows;
        found.odd[found.count] = both ? found.even[found.count] + m->rows : NULL;
        found.x[found.count++] = _mm512_set1_epi32((int)inputs);
    }
    return found;
}

/* sums += pairs * x: `count` pairs (a constant after inlining), while those of `next` are asked for. */
static inline __attribute__((always_inline)) void add_pairs(const pairs *now, const pairs *next, const int count,
                                                            ptrdiff_t rows, float *sums)
{
    /* Two outputs of both columns in turns, sixteen outputs in order, come out of unpacking vectors so arranged. */
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    for (ptrdiff_t r = 0; r < rows; r += PAIR_OUTPUTS) {
        const ptrdiff_t left = rows - r;
        const __mmask32 there = left < PAIR_OUTPUTS ? ((__mmask32)1 << left) - 1 : ~(__mmask32)0;
        const __mmask16 first = (__mmask16)there, second = (__mmask16)(there >> PAIR_LANES);
        rk_vf32 low = (rk_vf32)_mm512_maskz_loadu_ps(first, sums + r);
        rk_vf32 high = (rk_vf32)_mm512_maskz_loadu_ps(second, sums + r + PAIR_LANES);
        for (int i = 0; i < next->count; i++) {
            __builtin_prefetch(next->even[i] + r);
            if (next->odd[i] != NULL) __builtin_prefetch(next->odd[i] + r);
        }
        for (int i = 0; i < count; i++) {
            __m512i a = _mm512_maskz_loadu_epi16(there, now->even[i] + r), b = _mm512_setzero_si512();
            if (now->odd[i] != NULL) b = _mm512_maskz_loadu_epi16(there, now->odd[i] + r);
            a = _mm512_permutexvar_epi64(order, a);
            b = _mm512_permutexvar_epi64(order, b);
            low = RK_DOT_BF16(_mm512_unpacklo_epi16(a, b), now->x[i], low);
            high = RK_DOT_BF16(_mm512_unpackhi_epi16(a, b), now->x[i], high);
        }
        _mm512_mask_storeu_ps(sums + r, first, (__m512)low);
        _mm512_mask_storeu_ps(sums + r + PAIR_LANES, second, (__m512)high);
    }
}

static void columns_bf16(const rk_matrix *m, const void *x, void *sums, ptrdiff_t begin, ptrdiff_t end)
{
    for (ptrdiff_t lane = begin; lane < end; lane++) {
        float *own = (float *)sums + lane * m->rows;
        ptrdiff_t k = 2 * lane;
        memset(own, 0, (size_t)m->rows * sizeof(float));
        pairs now = next_pairs(m, x, &k);
        while (now.count > 0) {
            pairs next = next_pairs(m, x, &k);
            switch (now.count) {
            case 4: add_pairs(&now, &next, 4, m->rows, own); break;
            case 3: add_pairs(&now, &next, 3, m->rows, own); break;
            case 2: add_pairs(&now, &next, 2, m->rows, own); break;
            default: add_pairs(&now, &next, 1, m->rows, own); break;
            }
            now = next;
        }
    }
}
