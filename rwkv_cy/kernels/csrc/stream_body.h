/* Reading alone: the sum of what lies in memory, to measure how fast weights can be had. */

/* Read side by side, as the matrix kernels read rows: a prefetcher stops at the end of a page, four do not at once. */
#define STREAMS 4
#define STREAM_VECTORS 2 /* of each, under way together */

/* Anything may lie there, anywhere. */
typedef uint64_t words __attribute__((vector_size(RK_VECTOR_BYTES), aligned(1), may_alias));

/* The sum of `bytes` bytes as 64-bit words in the machine's order, the last one filled up with zeros. */
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
