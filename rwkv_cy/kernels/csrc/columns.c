/* Products with transposed matrices, shared among threads: a few tokens by their nonzero inputs. */
#include "columns.h"

static ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t unit) { return (n + unit - 1) / unit * unit; }

static size_t weight_bytes(const rk_matrix *m) { return m->dtype == RK_F64 ? 8 : m->dtype == RK_F32 ? 4 : 2; }

typedef struct {
    const rk_ops *ops;
    const rk_matrix *m;
    const void *x;
    void *sums;
} one_token;

static void lanes_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    one_token *one = context;
    (void)thread;
    one->ops->columns(one->m, one->x, one->sums, begin, end);
}

/* Lanes of a vector of sums. */
static ptrdiff_t sum_lanes(const rk_ops *ops) { return ops->lanes * (ptrdiff_t)ops->itemsize / (ptrdiff_t)ops->sumsize; }

size_t rk_columns_scratch(const rk_ops *ops, const rk_matrix *m)
{
    return (size_t)round_up(sum_lanes(ops) * m->rows * (ptrdiff_t)ops->sumsize, 64);
}

void rk_columns(const rk_ops *ops, const rk_matrix *m, const void *x, ptrdiff_t tokens, void *y, void *scratch,
                int threads)
{
    /* A matrix that is read in less time than it takes to wake a thread is not shared. */
    ptrdiff_t bytes = m->rows * m->cols * (ptrdiff_t)weight_bytes(m);
    const ptrdiff_t lanes = sum_lanes(ops);
    ptrdiff_t grain = bytes < lanes * RK_LANE_BYTES ? lanes : 1;
    for (ptrdiff_t t = 0; t < tokens; t++) {
        one_token one = {ops, m, (const char *)x + (size_t)(t * m->cols) * ops->itemsize, scratch};
        rk_parallel(lanes, grain, threads, lanes_piece, &one);
        ops->add_lanes(m, scratch, (char *)y + (size_t)(t * m->rows) * ops->sumsize);
    }
}
