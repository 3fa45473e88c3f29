/* Sum of a span of memory, to measure how fast weights can be read. */

/* Streams read in parallel, as the matrix kernels read rows: hardware prefetch stops at page ends, which differ between
 * the streams. */
#define STREAMS 4
#define STREAM_VECTORS 2 /* in flight for each */

/* Any type, at any alignment. */
typedef uint64_t words __attribute__((vector_size(RK_VECTOR_BYTES), aligned(1), may_alias));

/* Sum of `bytes` bytes as 64-bit words in native order, the last one padded with zeros. */
static uint64_t sum_words(const void *data, ptrdiff_t bytes)
{
    const char *p = data, *end = p + bytes;
    const ptrdiff_t step = STREAM_VECTORS * (ptrdiff_t)sizeof(words);
    const ptrdiff_t share = bytes / STREAMS / step * step;
    words sums[STREAMS][STREAM_VECTORS] = {{{0}}};
    for (ptrdiff_t at = 0; at < share; at += step) {
        for (int s = 0; s < STREAMS; s++) {
            const words *from = (const words *)(p + s * share + at);
            for (int i = 0; i < STREAM_VECTORS; i++) sums[s][i] += from[i];
        }
    }
    uint64_t total = 0;
    for (int s = 0; s < STREAMS; s++) {
        for (int i = 0; i < STREAM_VECTORS; i++) {
            for (size_t lane = 0; lane < sizeof(words) / 8; lane++) total += sums[s][i][lane];
        }
    }
    for (p += STREAMS * share; p < end; p += 8) {
        uint64_t word = 0;
        memcpy(&word, p, end - p < 8 ? (size_t)(end - p) : 8);
        total += word;
    }
    return total;
}
