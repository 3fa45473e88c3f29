/* Transposition of a matrix for one item size: ITEM is the type of an item, ITEMS the number in a vector. */

#define FN(name) RK_CAT_T(name, SUFFIX)

typedef ITEM FN(vector) __attribute__((vector_size(16)));

/* out[i * out_stride + j] = in[j * in_stride + i] for i, j < ITEMS. Each round interleaves the first half of the
 * vectors with the second; after log2(ITEMS) of them, rows are columns. */
static inline void FN(block)(const ITEM *in, size_t in_stride, ITEM *out, size_t out_stride)
{
    FN(vector) v[ITEMS], w[ITEMS];
    for (int i = 0; i < ITEMS; i++) memcpy(&v[i], in + (size_t)i * in_stride, sizeof v[i]);
    for (int round = 1; round < ITEMS; round *= 2) {
        for (int i = 0; i < ITEMS / 2; i++) {
            w[2 * i] = ZIP_LOW(v[i], v[i + ITEMS / 2]);
            w[2 * i + 1] = ZIP_HIGH(v[i], v[i + ITEMS / 2]);
        }
        memcpy(v, w, sizeof v);
    }
    for (int i = 0; i < ITEMS; i++) memcpy(out + (size_t)i * out_stride, &v[i], sizeof v[i]);
}

enum { FN(line) = 64 / sizeof(ITEM) }; /* items of a cache line */

/* Transpose one cache line of columns from as many rows. Each line of input and output is accessed once: rows a
 * multiple of 4 KiB apart share a cache set, and would be evicted before a second access. */
static void FN(tile)(const ITEM *in, size_t in_stride, ITEM *out, size_t out_stride)
{
    enum { LINE = FN(line) };
    ITEM from[LINE * LINE], to[LINE * LINE];
    for (size_t r = 0; r < LINE; r++) {
        __builtin_prefetch(in + r * in_stride + 4 * LINE);
        memcpy(from + r * LINE, in + r * in_stride, 64);
    }
    for (size_t c = 0; c < LINE; c += ITEMS)
        for (size_t r = 0; r < LINE; r += ITEMS) FN(block)(from + r * LINE + c, LINE, to + c * LINE + r, LINE);
    for (size_t c = 0; c < LINE; c++) memcpy(out + c * out_stride, to + c * LINE, 64);
}

static void FN(transpose)(const ITEM *in, size_t rows, size_t cols, size_t in_stride, ITEM *out, size_t out_stride)
{
    const size_t line = FN(line), whole_rows = rows / line * line, whole_cols = cols / line * line;
    for (size_t r = 0; r < whole_rows; r += line)
        for (size_t c = 0; c < whole_cols; c += line)
            FN(tile)(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = r < whole_rows ? whole_cols : 0; c < cols; c++) out[c * out_stride + r] = in[r * in_stride + c];
}

#undef FN
#undef ITEM
#undef ITEMS
#undef SUFFIX
#undef ZIP_LOW
#undef ZIP_HIGH
