/* Fuzz target: matrices in bf12 as a file may hold them, lists of escapes of any content included.
 *
 * Whatever the lists say, no product may read or write outside of the matrix. Where they are as a writer leaves them,
 * decoding gives what a decoder by the letter of the format gives, products of every kernel family equal those of the
 * same weights in bf16, bit for bit, and packing the weights again loses none. */
#include "codec/bf12.h"
#include "fuzz.h"

enum { MOST_ROWS = 9, FEW_ROWS = 5, MOST_COLS = 270, FEW_COLS = 40, MOST_ESCAPES = 24 };

static const ptrdiff_t token_counts[] = {1, 2, 9};

/* One weight by the letter of the format, without escapes. */
static uint16_t weight(const uint8_t *packed, ptrdiff_t cols, ptrdiff_t row, ptrdiff_t col)
{
    const uint8_t *chunk = packed + 64 + row / 4 * ((cols + 127) / 128 * 192 * 4) + (col / 128 * 4 + row % 4) * 192;
    const ptrdiff_t c = col % 128, quarter = c / 32, word = c % 16 * 2 + c % 32 / 16;
    const uint8_t *own = chunk + quarter / 2 * 64 + 2 * word, *index = chunk + 128 + 2 * word;
    const uint8_t low = own[quarter % 2], high = own[1 - quarter % 2];
    const uint8_t code = (uint8_t)((index[0] | index[1] << 8) >> (4 * quarter) & 15);
    return (uint16_t)((low & 0x7f) | (high & 0x80) << 8 | packed[code] << 7);
}

static void check_decoding(const uint8_t *packed, ptrdiff_t rows, ptrdiff_t cols, uint16_t *words)
{
    for (ptrdiff_t i = 0; i < rows * cols; i++) words[i] = weight(packed, cols, i / cols, i % cols);
    uint16_t *decoded = fuzz_memory((size_t)(rows * cols) * 2);
    rk_bf12_unpack(packed, packed + RK_BF12_HEAD, rows, cols, decoded);
    for (ptrdiff_t i = 0; i < rows * cols; i++)
        if (decoded[i] != words[i]) fuzz_fail("bf12 decoded", i, words[i], decoded[i]);
    free(decoded);
}

/* Pack weights, and decode them again. */
static void check_packing(const uint16_t *words, ptrdiff_t rows, ptrdiff_t cols, const uint8_t *table, ptrdiff_t capacity)
{
    uint8_t *packed = fuzz_memory((size_t)(RK_BF12_HEAD + rk_bf12_at(cols, (rows + 3) / 4 * 4, 0)));
    uint16_t *escapes = fuzz_memory((size_t)capacity * 4), *decoded = fuzz_memory((size_t)(rows * cols) * 2);
    long long *ends = fuzz_memory((size_t)rows * sizeof *ends), begin = 0;
    memset(packed, 0, RK_BF12_HEAD);
    memcpy(packed, table, RK_BF12_TABLE);
    const ptrdiff_t escaped = rk_bf12_pack(words, rows, cols, table, packed + RK_BF12_HEAD, escapes, capacity, ends);
    rk_bf12_unpack(packed, packed + RK_BF12_HEAD, rows, cols, decoded);
    if (ends[rows - 1] != escaped) fuzz_fail("end of the last row", rows - 1, (double)escaped, (double)ends[rows - 1]);
    for (ptrdiff_t r = 0; r < rows && escaped <= capacity; r++) {
        for (; begin < ends[r]; begin++) decoded[r * cols + escapes[2 * begin]] = escapes[2 * begin + 1];
        for (ptrdiff_t c = r * cols; c < (r + 1) * cols; c++)
            if (decoded[c] != words[c]) fuzz_fail("bf12 packed", c, words[c], decoded[c]);
    }
    free(packed), free(escapes), free(decoded), free(ends);
}

/* Make the lists of a row ascend, as a writer does. */
static void tidy(uint8_t *starts, uint8_t *escapes, ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t count)
{
    for (uint32_t r = 0, row = 0; r <= (uint32_t)rows; r++) {
        const uint32_t most = (uint32_t)(count < (ptrdiff_t)(r * (uint32_t)cols) ? count : (ptrdiff_t)(r * (uint32_t)cols));
        uint32_t start;
        memcpy(&start, starts + 4 * r, 4);
        row = r == (uint32_t)rows ? most : row + start % (most - row + 1);
        const uint32_t width = r ? (uint32_t)cols : 0;
        uint32_t before;
        if (r) {
            memcpy(&before, starts + 4 * (r - 1), 4);
            if (row - before > width) row = before + width;
            for (uint32_t i = before; i < row; i++) {
                const uint16_t column = (uint16_t)((i - before) * width / (row - before));
                memcpy(escapes + 4 * i, &column, 2);
            }
        }
        memcpy(starts + 4 * r, &row, 4);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = fuzz_begin(data, size);
    const int tidied = fuzz_byte(&in) & 1;
    const ptrdiff_t rows = fuzz_size(&in, FEW_ROWS, MOST_ROWS), cols = fuzz_size(&in, FEW_COLS, MOST_COLS);
    const ptrdiff_t tokens = token_counts[fuzz_byte(&in) % 3], count = fuzz_number(&in, MOST_ESCAPES);
    const ptrdiff_t chunks = rk_bf12_at(cols, (rows + RK_BF12_ROWS - 1) / RK_BF12_ROWS * RK_BF12_ROWS, 0);
    const ptrdiff_t lists = 4 * (rows + 1 + count);
    uint8_t *packed = fuzz_memory((size_t)(RK_BF12_HEAD + chunks + lists));
    uint8_t *starts = packed + RK_BF12_HEAD + chunks, *escapes = starts + 4 * (rows + 1);
    /* The lists come first: they are what a file can lie with. */
    for (ptrdiff_t i = 0; i < lists; i++) starts[i] = fuzz_byte(&in);
    if (fuzz_byte(&in) & 1)
        for (ptrdiff_t i = 0; i <= rows; i++) memset(starts + 4 * i + 1, 0, 3);
    for (ptrdiff_t i = 0; i < RK_BF12_HEAD + chunks; i++) packed[i] = fuzz_byte(&in);
    if (tidied) tidy(starts, escapes, rows, cols, count);

    uint16_t *words = fuzz_memory((size_t)(rows * cols) * 2);
    check_decoding(packed, rows, cols, words);
    check_packing(words, rows, cols, packed, fuzz_number(&in, (ptrdiff_t)(rows * cols)));
    if (tidied) {
        uint32_t at = 0, end;
        for (ptrdiff_t r = 0; r < rows; r++) {
            memcpy(&end, starts + 4 * (r + 1), 4);
            for (; at < end; at++) {
                uint16_t column;
                memcpy(&column, escapes + 4 * at, 2);
                memcpy(words + r * cols + column, escapes + 4 * at + 2, 2);
            }
        }
    }
    float *x = fuzz_activations(&in, tokens * cols);
    const rk_matrix compressed = {.data = packed, .rows = rows, .cols = cols, .dtype = RK_BF12, .scale = 1, .escapes = count};
    const rk_matrix plain = {.data = words, .rows = rows, .cols = cols, .dtype = RK_BF16, .scale = 1};
    const rk_table *table = fuzz_family(&in);
    float *got = fuzz_product(&table->f32, &compressed, x, tokens);
    float *expected = fuzz_product(&table->f32, &plain, x, tokens);
    for (ptrdiff_t y = 0; tidied && y < tokens * rows; y++)
        if (!fuzz_same(got[y], expected[y])) fuzz_fail(table->name, y, expected[y], got[y]);
    free(got), free(expected);
    free(x), free(words), free(packed);
    return 0;
}
