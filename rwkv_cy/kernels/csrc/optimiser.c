/* AdamW, split into pieces for the threads. Every element is computed alone, and squares are summed in parts of a fixed
 * length: results do not depend on the number of threads. */
#include "optimiser.h"

#include "pieces.h"

typedef struct {
    const rk_ops *ops;
    const rk_adamw *options;
    const void *gradient;
    void *first, *second, *values;
} update_work;

static void update_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const update_work *w = context;
    (void)thread;
    w->ops->gradients.adamw(w->options, w->gradient, w->first, w->second, w->values, begin, end);
}

void rk_adamw_update(const rk_ops *ops, const rk_adamw *options, const void *gradient, void *first, void *second,
                     void *values, ptrdiff_t n, int threads)
{
    update_work work = {ops, options, gradient, first, second, values};
    rk_parallel(n, PIECE_ELEMENTS, threads, update_piece, &work);
}

typedef struct {
    const rk_ops *ops;
    const void *x;
    ptrdiff_t n;
    double *sums;
} squares_work;

static void squares_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const squares_work *w = context;
    (void)thread;
    for (ptrdiff_t i = begin; i < end; i++)
        w->sums[i] = w->ops->gradients.squares(w->x, i * RK_SQUARES, at_most((i + 1) * RK_SQUARES, w->n));
}

void rk_squares(const rk_ops *ops, const void *x, ptrdiff_t n, double *sums, int threads)
{
    squares_work work = {ops, x, n, sums};
    rk_parallel(rk_square_sums(n), 1, threads, squares_piece, &work);
}
