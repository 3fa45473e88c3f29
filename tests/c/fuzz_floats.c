/* Fuzz target: matrices of f32, f16 and bf16 of any bits, both orientations, and what moves them: transposition, sums of
 * words, the search for NaN and Inf.
 *
 * A column picked by a product with a vector of one 1 is that of the matrix, as plain conversions have it, and subnormal
 * numbers may count as 0. One token of a finite matrix gives the same bits alone and among many; where a weight is Inf, a
 * product that skips zeros differs from one that multiplies by them. Nothing is read or written outside. */
#include "fuzz.h"
#include "scalar.h"

#include <float.h>

enum { MOST_ROWS = 21, FEW_ROWS = 9, MOST_COLS = 70, FEW_COLS = 20, MOST_TOKENS = 10 };

static const int types[] = {RK_F32, RK_F16, RK_BF16};

/* IEEE 754 half precision, by its definition. */
static float half(uint16_t bits)
{
    const int exponent = bits >> 10 & 31, fraction = bits & 1023, negative = bits >> 15;
    const double magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                             : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                            : ldexp(fraction, -24);
    return (float)(negative ? -magnitude : magnitude);
}

static float element(const uint8_t *data, int dtype, ptrdiff_t i)
{
    uint16_t word;
    float value;
    if (dtype == RK_F32) return memcpy(&value, data + 4 * i, 4), value;
    memcpy(&word, data + 2 * i, 2);
    if (dtype == RK_F16) return half(word);
    const uint32_t bits = (uint32_t)word << 16;
    return memcpy(&value, &bits, 4), value;
}

static void check_transposed(fuzz_input *in)
{
    const size_t item = (size_t)2 << fuzz_byte(in) % 3, rows = (size_t)fuzz_size(in, 9, 71) - 1, cols = (size_t)fuzz_size(in, 9, 71) - 1;
    const size_t in_stride = cols + fuzz_byte(in) % 4, out_stride = rows + fuzz_byte(in) % 4;
    /* The last row ends with its last item. */
    const size_t from_size = rows && cols ? (rows - 1) * in_stride + cols : 0;
    const size_t to_size = rows && cols ? (cols - 1) * out_stride + rows : 0;
    uint8_t *from = fuzz_bytes(in, from_size * item), *to = fuzz_memory(to_size * item);
    rk_transpose(from, item, rows, cols, in_stride, to, out_stride);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            if (memcmp(from + (r * in_stride + c) * item, to + (c * out_stride + r) * item, item))
                fuzz_fail("transposed", (ptrdiff_t)(r * cols + c), 0, 1);
    free(from), free(to);
}

static void check_words(const rk_table *table, const uint8_t *data, ptrdiff_t bytes)
{
    uint64_t sum = 0;
    for (ptrdiff_t at = 0; at < bytes; at += 8) {
        uint64_t word = 0;
        memcpy(&word, data + at, bytes - at < 8 ? (size_t)(bytes - at) : 8);
        sum += word;
    }
    if (table->sum_words(data, bytes) != sum) fuzz_fail("sum of words", bytes, 0, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = fuzz_begin(data, size);
    const int dtype = types[fuzz_byte(&in) % 3], transposed = fuzz_byte(&in) & 1;
    const ptrdiff_t rows = fuzz_size(&in, FEW_ROWS, MOST_ROWS), cols = fuzz_size(&in, FEW_COLS, MOST_COLS);
    const ptrdiff_t tokens = 1 + fuzz_number(&in, MOST_TOKENS - 1), column = fuzz_number(&in, cols - 1);
    const ptrdiff_t itemsize = dtype == RK_F32 ? 4 : 2, bytes = rows * cols * itemsize;
    check_transposed(&in);
    uint8_t *weights = fuzz_bytes(&in, (size_t)bytes);
    float *x = fuzz_activations(&in, tokens * cols);
    memset(x, 0, (size_t)cols * sizeof *x);
    x[column] = 1;
    int finite = 1;
    for (ptrdiff_t i = 0; i < rows * cols; i++) finite &= isfinite(element(weights, dtype, i)) != 0;
    const rk_matrix m = {.data = weights, .rows = rows, .cols = cols, .dtype = dtype, .scale = 1, .transposed = transposed};
    const rk_table *table = fuzz_family(&in);
    float *y = fuzz_product(&table->f32, &m, x, tokens);
    for (ptrdiff_t r = 0; r < rows; r++) {
        const float expected = element(weights, dtype, transposed ? column * rows + r : r * cols + column);
        if (finite && !fuzz_same(y[r], fabsf(expected) < FLT_MIN && y[r] == 0 ? 0 : expected))
            fuzz_fail(table->name, r, expected, y[r]);
    }
    for (ptrdiff_t t = tokens - 1; t >= 0; t -= 4) {
        float *one = fuzz_product(&table->f32, &m, x + t * cols, 1);
        for (ptrdiff_t r = 0; r < rows; r++)
            if (finite && !fuzz_same(one[r], y[t * rows + r])) fuzz_fail("one token", t * rows + r, one[r], y[t * rows + r]);
        free(one);
    }
    check_words(table, weights, bytes);
    if (dtype == RK_F32 && (table->f32.all_finite(weights, rows * cols) != 0) != finite)
        fuzz_fail("all finite", rows * cols, finite, !finite);
    free(y), free(weights), free(x);
    return 0;
}
