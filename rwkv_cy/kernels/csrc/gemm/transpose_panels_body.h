/* Packs panels of a transposed matrix, for one instruction set: blocks are transposed in registers and stored in the
 * layout of panels_body.h. */

enum { LANES_32 = RK_VECTOR_BYTES / 4 }; /* 32-bit items in a vector */

/* Weights of column k, LANES_32 rows from `row` on; zeros beyond the matrix. */
static inline rk_vf32 load_column(const rk_matrix *m, int dtype, ptrdiff_t k, ptrdiff_t row)
{
    const ptrdiff_t left = m->rows - row;
    if (k >= m->cols || left <= 0) return (rk_vf32){0};
    const char *column = (const char *)m->data + (size_t)(k * m->rows) * weight_bytes_f32(dtype);
    return left >= LANES_32 ? weights_f32(column, dtype, row) : weights_part_f32(column, dtype, row, left);
}

/* Item j: one widened column, or a pair of bf16 columns. */
static inline rk_vf32 join_pair(rk_vf32 first, rk_vf32 second)
{
    return (rk_vf32)((rk_vu32)first >> 16 | (rk_vu32)second);
}

/* v[j] = rows of item j of a block at the edge of the matrix. */
static __attribute__((noinline)) void load_edge(const rk_matrix *m, int dtype, int pairs, ptrdiff_t k, ptrdiff_t row,
                                                rk_vf32 v[LANES_32])
{
    for (int j = 0; j < LANES_32; j++)
        v[j] = pairs ? join_pair(load_column(m, dtype, k + 2 * j, row), load_column(m, dtype, k + 2 * j + 1, row))
                     : load_column(m, dtype, k + j, row);
}

/* Load v[j] = rows of item j and transpose to v[i] = items of row i. Each round interleaves the first half of the vectors with the second; log2(LANES_32) rounds transpose the
 * block. */
static inline __attribute__((always_inline)) void transpose_block(const rk_matrix *m, int dtype, const int pairs, ptrdiff_t k,
                                                             ptrdiff_t row, rk_vf32 v[LANES_32])
{
    const size_t stride = (size_t)m->rows * weight_bytes_f32(dtype);
    const char *column = (const char *)m->data + (size_t)k * stride;
    rk_vf32 w[LANES_32];
    if (k + (pairs ? 2 : 1) * LANES_32 > m->cols || row + LANES_32 > m->rows) {
        load_edge(m, dtype, pairs, k, row, w);
#pragma GCC unroll 16
        for (int j = 0; j < LANES_32; j++) v[j] = w[j];
    } else {
#pragma GCC unroll 16
        for (int j = 0; j < LANES_32; j++, column += (pairs ? 2 : 1) * stride)
            v[j] = pairs ? join_pair(weights_f32(column, dtype, row), weights_f32(column + stride, dtype, row))
                         : weights_f32(column, dtype, row);
    }
#pragma GCC unroll 4
    for (int round = 1; round < LANES_32; round *= 2) {
#pragma GCC unroll 8
        for (int j = 0; j < LANES_32 / 2; j++) {
            w[2 * j] = RK_ZIP_LOW(v[j], v[j + LANES_32 / 2]);
            w[2 * j + 1] = RK_ZIP_HIGH(v[j], v[j + LANES_32 / 2]);
        }
#pragma GCC unroll 16
        for (int j = 0; j < LANES_32; j++) v[j] = w[j];
    }
}

static inline __attribute__((always_inline)) void transpose_panels_of(const rk_matrix *m, int dtype, const int pairs,
                                                                 ptrdiff_t first, ptrdiff_t panels, ptrdiff_t from,
                                                                 ptrdiff_t count, char *packed)
{
    const ptrdiff_t rows = panels * RK_PANEL_ROWS, lanes = pairs ? 2 * LANES_32 : LANES_32;
    for (ptrdiff_t r = 0; r < rows; r += LANES_32) {
        const ptrdiff_t live = rows - r < LANES_32 ? rows - r : LANES_32;
        char *out[LANES_32];
        for (ptrdiff_t i = 0; i < live; i++)
            out[i] = packed + ((r + i) / RK_PANEL_ROWS * count * RK_PANEL_ROWS + (r + i) % RK_PANEL_ROWS) *
                                  RK_VECTOR_BYTES;
        for (ptrdiff_t v = 0; v < count; v++) {
            rk_vf32 block[LANES_32];
            transpose_block(m, dtype, pairs, (from + v) * lanes, first + r, block);
            if (live == LANES_32) {
#pragma GCC unroll 16
                for (int i = 0; i < LANES_32; i++)
                    memcpy(out[i] + v * RK_PANEL_ROWS * RK_VECTOR_BYTES, &block[i], sizeof block[i]);
            } else {
                for (ptrdiff_t i = 0; i < live; i++)
                    memcpy(out[i] + v * RK_PANEL_ROWS * RK_VECTOR_BYTES, &block[i], sizeof block[i]);
            }
        }
    }
}

static void transpose_panels(const rk_matrix *m, ptrdiff_t first, ptrdiff_t panels, ptrdiff_t from, ptrdiff_t count,
                        void *packed)
{
#if RK_IS_F32
    if (m->dtype == RK_F16)
        transpose_panels_of(m, RK_F16, 0, first, panels, from, count, packed);
    else if (m->dtype == RK_BF16)
        transpose_panels_of(m, RK_BF16, 0, first, panels, from, count, packed);
    else
        transpose_panels_of(m, RK_F32, 0, first, panels, from, count, packed);
#else
    transpose_panels_of(m, RK_BF16, 1, first, panels, from, count, packed);
#endif
}
