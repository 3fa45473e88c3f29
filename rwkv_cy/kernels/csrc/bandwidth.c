/* A quick sample of the memory bandwidth: threads read a block of memory that is larger than the caches. */
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "bandwidth.h"

/* Memory is allocated and read in pieces of this size: a huge page. */
#define PIECE ((size_t)2 << 20)
#define PAGE ((size_t)4096)
/* With less memory, a sample says nothing; the first pass finds the caches and the TLB as the allocation left them. */
#define LEAST_PIECES 8
#define LEAST_PASSES 2

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

double rk_read_bandwidth(const rk_table *table, size_t bytes, int threads, double seconds)
{
    const size_t count = bytes / PIECE;
    if (count < LEAST_PIECES) return 0;
    rk_piece *pieces = malloc(count * sizeof *pieces);
    char *memory = mmap(NULL, (count + 1) * PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    double best = 0;
    if (pieces != NULL && memory != MAP_FAILED) {
        char *first = memory + (PIECE - (size_t)memory % PIECE) % PIECE;
#ifdef MADV_HUGEPAGE
        madvise(first, count * PIECE, MADV_HUGEPAGE);
#endif
        /* Written, a page is memory of its own and not the one page of zeros. */
        for (size_t page = 0; page < count * PIECE; page += PAGE) ((volatile char *)first)[page] = 1;
        for (size_t i = 0; i < count; i++) pieces[i] = (rk_piece){first + i * PIECE, (ptrdiff_t)PIECE, 0};
        const double end = now() + seconds;
        double before = now();
        for (int pass = 0; pass < LEAST_PASSES || before < end; pass++) {
            rk_read(table, pieces, (ptrdiff_t)count, threads);
            const double after = now();
            if (after > before && (double)(count * PIECE) / (after - before) > best)
                best = (double)(count * PIECE) / (after - before);
            before = after;
        }
    }
    if (memory != MAP_FAILED) munmap(memory, (count + 1) * PIECE);
    free(pieces);
    return best;
}
