/* Fuzz target: matrices in q8, q6, q4 and q4n as a file may hold them, scales that are NaN or Inf included, and the
 * quantizer under any finite weights.
 *
 * Decoding gives what a decoder by the letter of the format gives, products stay within the matrix, those of finite
 * matrices are as near to the portable family's as rounding allows, and quantized weights are as near to the
 * weights as half a step allows. */
#include "codec/quant.h"
#include "fuzz.h"
#include "scalar.h"

enum { MOST_ROWS = 33, FEW_ROWS = 7, MOST_COLS = 140, FEW_COLS = 40, MOST_TOKENS = 9 };

static const ptrdiff_t token_counts[] = {1, 2, 3, 5, 9};
static const int types[] = {RK_Q8, RK_Q6, RK_Q4, RK_Q4N};

static const int levels[] = {0, 6, 12, 16, 20, 24, 27, 30, 33, 36, 39, 43, 47, 51, 57, 63};

static int narrow(int dtype) { return dtype == RK_Q8 || dtype == RK_Q4N; }

static ptrdiff_t block_bytes(int dtype)
{
    return dtype == RK_Q8 ? 544 : dtype == RK_Q4 ? 576 : dtype == RK_Q4N ? 288 : 832;
}

/* The first number of a row of a block: a scale. */
static float scale_of(int dtype, const uint8_t *block, ptrdiff_t lane)
{
    const int word = block[2 * lane] | block[2 * lane + 1] << 8;
    return dtype == RK_Q4N ? rk_f16_to_f32((uint16_t)(word >> 6 << 5)) / 256 : rk_f16_to_f32((uint16_t)word);
}

/* One weight by the letter of the format. */
static float weight(const uint8_t *packed, ptrdiff_t cols, int dtype, ptrdiff_t row, ptrdiff_t col)
{
    const ptrdiff_t width = narrow(dtype) ? 32 : 64, bytes = block_bytes(dtype);
    const uint8_t *block = packed + (row / 16 * ((cols + width - 1) / width) + col / width) * bytes;
    const ptrdiff_t lane = row % 16, c = col % width;
    const float step = scale_of(dtype, block, lane);
    if (dtype == RK_Q4N) {
        const int q = block[32 + c / 8 * 64 + lane * 4 + c % 4] >> (c % 8 < 4 ? 0 : 4) & 15;
        return (float)(levels[q] - block[2 * lane] % 64) * step;
    }
    if (dtype == RK_Q8) return (float)(int8_t)block[32 + c / 4 * 64 + lane * 4 + c % 4] * step;
    const float least = rk_f16_to_f32((uint16_t)(block[32 + 2 * lane] | block[33 + 2 * lane] << 8));
    const int low = block[64 + c / 8 * 64 + lane * 4 + c % 4] >> (c % 8 < 4 ? 0 : 4) & 15;
    const int high = dtype == RK_Q6 ? block[576 + c / 16 * 64 + lane * 4 + c % 4] >> (c % 16 / 4 * 2) & 3 : 0;
    return (float)(low | high << 4) * step + least;
}

/* The magnitudes of what a weight is summed of, by the letter of the format. */
static double terms(const uint8_t *packed, ptrdiff_t cols, int dtype, ptrdiff_t row, ptrdiff_t col)
{
    const ptrdiff_t width = narrow(dtype) ? 32 : 64, bytes = block_bytes(dtype);
    const uint8_t *block = packed + (row / 16 * ((cols + width - 1) / width) + col / width) * bytes;
    const ptrdiff_t lane = row % 16;
    const double step = scale_of(dtype, block, lane);
    if (narrow(dtype)) return 128 * fabs(step);
    return 63 * fabs(step) + fabs((double)rk_f16_to_f32((uint16_t)(block[32 + 2 * lane] | block[33 + 2 * lane] << 8)));
}

static size_t packed_bytes(int dtype, ptrdiff_t rows, ptrdiff_t cols)
{
    return (size_t)((rows + RK_Q_ROWS - 1) / RK_Q_ROWS * rk_q_blocks(dtype, cols) * rk_q_bytes(dtype));
}

/* Quantize weights: all that is decoded is finite if the scales are, and in q8 at most half a step away, or as far as
 * the scale's own rounding takes the largest weight. */
static void check_quantizer(fuzz_input *in, int dtype, ptrdiff_t rows, ptrdiff_t cols)
{
    float *w = fuzz_bytes(in, (size_t)(rows * cols) * sizeof *w);
    for (ptrdiff_t i = 0; i < rows * cols; i++)
        if (!isfinite(w[i])) w[i] = (float)(i % 7) - 3;
    uint8_t *packed = fuzz_memory(packed_bytes(dtype, rows, cols));
    rk_quantize(w, rows, cols, dtype, NULL, packed);
    for (ptrdiff_t r = 0; r < rows; r++) {
        double largest = 0; /* of the block */
        for (ptrdiff_t c = 0; c < cols; c++) {
            const ptrdiff_t width = rk_q_cols(dtype), begin = c / width * width;
            const ptrdiff_t end = begin + width < cols ? begin + width : cols;
            const char *block = (const char *)packed + (r / RK_Q_ROWS * rk_q_blocks(dtype, cols) + c / width) * rk_q_bytes(dtype);
            const uint16_t *steps = (const uint16_t *)block;
            const float step = scale_of(dtype, (const uint8_t *)block, r % RK_Q_ROWS);
            const float decoded = weight(packed, cols, dtype, r, c);
            const int finite = isfinite(step) && (narrow(dtype) || isfinite(rk_f16_to_f32(steps[RK_Q_ROWS + r % RK_Q_ROWS])));
            if (finite && !isfinite(decoded)) fuzz_fail("quantized", r * cols + c, w[r * cols + c], decoded);
            if (!finite || dtype != RK_Q8) continue;
            if (c == begin) largest = 0;
            for (ptrdiff_t i = c == begin ? begin : end; i < end; i++) largest = fmax(largest, fabs((double)w[r * cols + i]));
            const double excess = fmax(largest - 127.0 * step, 0), error = fabs((double)decoded - (double)w[r * cols + c]);
            if (error > fmax(0.5001 * step, excess * 1.0001)) fuzz_fail("q8", r * cols + c, w[r * cols + c], decoded);
        }
    }
    free(w), free(packed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = fuzz_begin(data, size);
    const int dtype = types[fuzz_byte(&in) % 4], moderate = fuzz_byte(&in) & 1;
    const ptrdiff_t rows = fuzz_size(&in, FEW_ROWS, MOST_ROWS), cols = fuzz_size(&in, FEW_COLS, MOST_COLS);
    const ptrdiff_t tokens = token_counts[fuzz_byte(&in) % 5];
    const size_t bytes = packed_bytes(dtype, rows, cols), block = (size_t)rk_q_bytes(dtype), head = (size_t)rk_q_head(dtype);
    check_quantizer(&in, dtype, 1 + rows % 5, cols);
    uint8_t *packed = fuzz_bytes(&in, bytes);
    if (moderate) /* scales and minimums from 2^-10 to 2^-6 */
        for (size_t i = 1; i < bytes; i += 2)
            if (i % block < head) packed[i] = (uint8_t)((packed[i] & 0x83) | 0x14 | (packed[i] & 8));
    float *w = fuzz_memory((size_t)(rows * cols) * sizeof *w), *x = fuzz_activations(&in, tokens * cols);
    rk_dequantize(packed, rows, cols, dtype, w);
    int finite = 1;
    for (ptrdiff_t i = 0; i < rows * cols; i++) {
        const float expected = weight(packed, cols, dtype, i / cols, i % cols);
        if (!fuzz_same(w[i], expected)) fuzz_fail("dequantized", i, expected, w[i]);
    }
    const int exponent = dtype == RK_Q4N ? 0xf8 : 0x7c; /* of a scale, in its upper byte */
    for (size_t i = 1; i < bytes; i += 2) finite &= i % block >= head || (packed[i] & exponent) != exponent;

    const rk_matrix m = {.data = packed, .rows = rows, .cols = cols, .dtype = dtype, .scale = 1};
    int last = 0;
    while (rk_available(last + 1) != NULL) last++;
    float *portable = fuzz_product(&rk_available(last)->f32, &m, x, tokens);
    const rk_table *table = fuzz_family(&in);
    float *y = fuzz_product(&table->f32, &m, x, tokens);
    double largest[MOST_TOKENS] = {0};
    for (ptrdiff_t i = 0; i < tokens * cols; i++) largest[i / cols] = fmax(largest[i / cols], fabs((double)x[i]));
    for (ptrdiff_t r = 0; finite && r < rows; r++) {
        double sum = 0;
        for (ptrdiff_t c = 0; c < cols; c++) sum += terms(packed, cols, dtype, r, c);
        for (ptrdiff_t t = 0, k = r; t < tokens; t++, k += rows)
            if (!(fabs((double)y[k] - portable[k]) <= 1e-5 * sum * largest[t])) fuzz_fail(table->name, k, portable[k], y[k]);
    }
    free(packed), free(w), free(x), free(portable), free(y);
    return 0;
}
