/* Packed panels of a matrix that lies transposed, for one instruction set: vectors of rows become vectors of columns in
 * registers, and go straight to where panels_body.h wants them. */

enum { TURN = RK_VECTOR_BYTES / 4 }; /* items of 32 bits in a vector */

/* Weights of column k, TURN rows from `row` on; zeros where the matrix has none. */
static inline rk_vf32 turn_column(const rk_matrix *m, int dtype, ptrdiff_t k, ptrdiff_t row)
{
    const ptrdiff_t left = m->rows - row;
    if (k >= m->cols || left <= 0) return (rk_vf32){0};
    const char *column = (const char *)m->data + (size_t)(k * m->rows) * weight_bytes_f32(dtype);
    return left >= TURN ? weights_f32(column, dtype, row) : weights_part_f32(column, dtype, row, left);
}

/* v[j] = rows of the columns of item j; then v[i] = items of row i. An item is a column, widened, or a pair of them in
 * bf16. Each round interleaves the first half of the vectors with the second; after log2(TURN) of them rows are
 * columns. */
static inline __attribute__((always_inline)) void turn_block(const rk_matrix *m, int dtype, const int pairs, ptrdiff_t k,
                                                             ptrdiff_t row, rk_vf32 v[TURN])
{
    rk_vf32 w[TURN];
#pragma GCC unroll 16
    for (int j = 0; j < TURN; j++) {
        if (pairs)
            v[j] = (rk_vf32)((rk_vu32)turn_column(m, dtype, k + 2 * j, row) >> 16 |
                             (rk_vu32)turn_column(m, dtype, k + 2 * j + 1, row));
        else
            v[j] = turn_column(m, dtype, k + j, row);
    }
#pragma GCC unroll 4
    for (int round = 1; round < TURN; round *= 2) {
#pragma GCC unroll 8
        for (int j = 0; j < TURN / 2; j++) {
            w[2 * j] = RK_ZIP_LOW(v[j], v[j + TURN / 2]);
            w[2 * j + 1] = RK_ZIP_HIGH(v[j], v[j + TURN / 2]);
        }
#pragma GCC unroll 16
        for (int j = 0; j < TURN; j++) v[j] = w[j];
    }
}

static inline __attribute__((always_inline)) void turn_panels_of(const rk_matrix *m, int dtype, const int pairs,
                                                                 ptrdiff_t first, ptrdiff_t panels, ptrdiff_t from,
                                                                 ptrdiff_t count, char *packed)
{
    const ptrdiff_t rows = panels * RK_PANEL_ROWS, lanes = pairs ? 2 * TURN : TURN;
    for (ptrdiff_t r = 0; r < rows; r += TURN) {
        const ptrdiff_t live = rows - r < TURN ? rows - r : TURN;
        char *out[TURN];
        for (ptrdiff_t i = 0; i < live; i++)
            out[i] = packed + ((r + i) / RK_PANEL_ROWS * count * RK_PANEL_ROWS + (r + i) % RK_PANEL_ROWS) *
                                  RK_VECTOR_BYTES;
        for (ptrdiff_t v = 0; v < count; v++) {
            rk_vf32 block[TURN];
            turn_block(m, dtype, pairs, (from + v) * lanes, first + r, block);
            if (live == TURN) {
#pragma GCC unroll 16
                for (int i = 0; i < TURN; i++)
                    memcpy(out[i] + v * RK_PANEL_ROWS * RK_VECTOR_BYTES, &block[i], sizeof block[i]);
            } else {
                for (ptrdiff_t i = 0; i < live; i++)
                    memcpy(out[i] + v * RK_PANEL_ROWS * RK_VECTOR_BYTES, &block[i], sizeof block[i]);
            }
        }
    }
}

static void turn_panels(const rk_matrix *m, ptrdiff_t first, ptrdiff_t panels, ptrdiff_t from, ptrdiff_t count,
                        void *packed)
{
#if RK_IS_F32
    if (m->dtype == RK_F16)
        turn_panels_of(m, RK_F16, 0, first, panels, from, count, packed);
    else if (m->dtype == RK_BF16)
        turn_panels_of(m, RK_BF16, 0, first, panels, from, count, packed);
    else
        turn_panels_of(m, RK_F32, 0, first, panels, from, count, packed);
#else
    turn_panels_of(m, RK_BF16, 1, first, panels, from, count, packed);
#endif
}
