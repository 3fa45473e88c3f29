/* Products with a transposed matrix in bf16 by the CPU's dot products, two columns at a time.
 *
 * The sum is that of matrix_body.h with the same instruction, bit for bit: for each output, lane l accumulates the
 * pairs of columns l, l + LANES, l + 2 LANES, ... one after the other, and the lanes are added in the same tree. Here a
 * vector holds one lane of sixteen outputs. A pair of inputs that are both zero is not read: the instruction would add
 * zeros, and leaves no sum that is subnormal for it to flush. */

enum {
    PAIR_LANES = RK_VECTOR_BYTES / 4,     /* pairs in a vector, and outputs in one of sums */
    PAIR_OUTPUTS = RK_VECTOR_BYTES / 2,   /* outputs in a vector of weights */
    PAIR_TILE = 4,                        /* vectors of weights in a tile */
};

/* The pairs of inputs that are not both zero, as they lie, and the last one again behind them. */
static ptrdiff_t list_nonzero_bf16(const void *x_, int dtype, ptrdiff_t cols, int32_t *list)
{
    const uint16_t *x = x_;
    ptrdiff_t count = 0;
    (void)dtype;
    for (ptrdiff_t k = 0; k < cols; k += 2) {
        list[count] = (int32_t)(k / 2);
        count += ((x[k] | (k + 1 < cols ? x[k + 1] : 0)) & 0x7fff) != 0;
    }
    for (ptrdiff_t i = 0; i < RK_NONZERO_PADDING; i++) list[count + i] = count > 0 ? list[count - 1] : 0;
    return count;
}

/* Bits 0..n-1, of PAIR_OUTPUTS. */
static inline __mmask32 first_outputs(ptrdiff_t n)
{
    return n >= PAIR_OUTPUTS ? ~(__mmask32)0 : n <= 0 ? 0 : ((__mmask32)1 << n) - 1;
}

/* `width` outputs from `first` on, `vectors` of weights (a constant after inlining), the last of them perhaps in part. */
static inline __attribute__((always_inline)) void column_pairs(const rk_matrix *m, const uint16_t *x,
                                                               const int32_t *list, ptrdiff_t count, ptrdiff_t first,
                                                               ptrdiff_t width, const int vectors, float *y)
{
    const uint16_t *data = (const uint16_t *)m->data + first;
    rk_vf32 sums[PAIR_LANES][2 * 2 * PAIR_TILE]; /* [lane of the sum][half of a vector of weights] */
    memset(sums, 0, sizeof sums);
    for (ptrdiff_t n = 0; n < count; n++) {
        const ptrdiff_t k = 2 * (ptrdiff_t)list[n], coming = 2 * (ptrdiff_t)list[n + RK_NONZERO_PADDING];
        const int whole = k + 1 < m->cols;
        const uint32_t pair = x[k] | (whole ? (uint32_t)x[k + 1] << 16 : 0);
        rk_vf32 *sum = sums[list[n] % PAIR_LANES];
        for (ptrdiff_t i = 0; i < width; i += 32) {
            __builtin_prefetch(data + coming * m->rows + i);
            __builtin_prefetch(data + (coming + (coming + 1 < m->cols)) * m->rows + i);
        }
        for (int v = 0; v < vectors; v++) {
            const __mmask32 there = first_outputs(width - v * PAIR_OUTPUTS);
            const uint16_t *even = data + k * m->rows + v * PAIR_OUTPUTS;
            __m512i a = _mm512_maskz_loadu_epi16(there, even);
            __m512i b = _mm512_maskz_loadu_epi16(whole ? there : 0, even + m->rows);
            /* Outputs 0-3, 8-11, 16-19, 24-27 in one half, the others in the other. */
            __m512i factor = _mm512_set1_epi32((int)pair);
            sum[2 * v] = RK_DOT_BF16(_mm512_unpacklo_epi16(a, b), factor, sum[2 * v]);
            sum[2 * v + 1] = RK_DOT_BF16(_mm512_unpackhi_epi16(a, b), factor, sum[2 * v + 1]);
        }
    }
    for (int v = 0; v < vectors; v++) {
        rk_vf32 total[2];
        for (int h = 0; h < 2; h++) {
            for (int half = PAIR_LANES / 2; half > 0; half /= 2)
                for (int lane = 0; lane < half; lane++) sums[lane][2 * v + h] += sums[lane + half][2 * v + h];
            total[h] = (sums[0][2 * v + h] + 0.0f) * (float)m->scale;
        }
        __m512 low = _mm512_shuffle_f32x4((__m512)total[0], (__m512)total[1], 0x44);
        __m512 high = _mm512_shuffle_f32x4((__m512)total[0], (__m512)total[1], 0xee);
        const uint32_t there = first_outputs(width - v * PAIR_OUTPUTS);
        float *out = y + first + v * PAIR_OUTPUTS;
        _mm512_mask_storeu_ps(out, (__mmask16)there, _mm512_shuffle_f32x4(low, low, 0xd8));
        _mm512_mask_storeu_ps(out + PAIR_LANES, (__mmask16)(there >> PAIR_LANES), _mm512_shuffle_f32x4(high, high, 0xd8));
    }
}

static void columns_bf16(const rk_matrix *m, const void *x, const int32_t *list, ptrdiff_t count, void *y,
                         ptrdiff_t begin, ptrdiff_t end)
{
    const ptrdiff_t tile = PAIR_TILE * PAIR_OUTPUTS;
    const ptrdiff_t last = end * tile < m->rows ? end * tile : m->rows;
    ptrdiff_t first = begin * tile;
    for (; last - first >= 2 * tile; first += 2 * tile)
        column_pairs(m, x, list, count, first, 2 * tile, 2 * PAIR_TILE, y);
    for (; first < last; first += tile)
        column_pairs(m, x, list, count, first, last - first < tile ? last - first : tile, PAIR_TILE, y);
}
