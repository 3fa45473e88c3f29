/* Products of a few tokens with transposed matrices, shared among threads. Columns of zero inputs are skipped. */
#include "gemm/columns.h"
#include "pieces.h"

static size_t weight_bytes(const rk_matrix *m) { return m->dtype == RK_F64 ? 8 : m->dtype == RK_F32 ? 4 : 2; }

typedef struct {
    const rk_ops *ops;
    const rk_matrix *m;
    const void *x;
    int tokens;
    void *sums;
} few_tokens;

static void lanes_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    few_tokens *few = context;
    (void)thread;
    few->ops->columns(few->m, few->x, few->tokens, few->sums, begin, end);
}

/* Lanes in a vector of sums. */
static ptrdiff_t sum_lanes(const rk_ops *ops) { return ops->lanes * (ptrdiff_t)ops->itemsize / (ptrdiff_t)ops->sumsize; }

size_t rk_columns_scratch(const rk_ops *ops, const rk_matrix *m, ptrdiff_t tokens)
{
    const ptrdiff_t together = tokens < RK_COLUMN_TOKENS ? tokens : RK_COLUMN_TOKENS;
    return (size_t)round_up(sum_lanes(ops) * together * m->rows * (ptrdiff_t)ops->sumsize, 64);
}

void rk_columns(const rk_ops *ops, const rk_matrix *m, const void *x, ptrdiff_t tokens, void *y, void *scratch,
                int threads)
{
    /* A matrix that is read faster than a thread wakes up is not shared. */
    ptrdiff_t bytes = m->rows * m->cols * (ptrdiff_t)weight_bytes(m);
    const ptrdiff_t lanes = sum_lanes(ops);
    ptrdiff_t grain = bytes < lanes * RK_LANE_BYTES ? lanes : 1;
    for (ptrdiff_t t = 0; t < tokens; t += RK_COLUMN_TOKENS) {
        const int together = (int)(tokens - t < RK_COLUMN_TOKENS ? tokens - t : RK_COLUMN_TOKENS);
        few_tokens few = {ops, m, (const char *)x + (size_t)(t * m->cols) * ops->itemsize, together, scratch};
        rk_parallel(lanes, grain, threads, lanes_piece, &few);
        ops->add_lanes(m, scratch, together, (char *)y + (size_t)(t * m->rows) * ops->sumsize);
    }
}
