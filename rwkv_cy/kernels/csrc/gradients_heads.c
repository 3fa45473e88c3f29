/* The backward pass of a matrix-valued state, split among threads by heads and sequences, and that of activations. */
#include "gradients_heads.h"

#include "pieces.h"

size_t rk_heads_gradient_scratch(const rk_ops *ops, int version, ptrdiff_t size, ptrdiff_t tokens)
{
    const ptrdiff_t length = rk_segment_tokens(tokens), segments = (tokens + length - 1) / length;
    const ptrdiff_t elements = segments * size * size + length * rk_padded_head(size) * ops->wkv[version].gradient_vectors
                               + ((length + 1) * size + length) * RK_GRADIENT_ROWS;
    return (size_t)round_up(elements * (ptrdiff_t)ops->sumsize, 64);
}

typedef struct {
    const rk_ops *ops;
    const rk_wkv *wkv;
    const rk_heads *p;
    const rk_tokens *all;
    char *parts;   /* `part` bytes per sequence */
    size_t part;
    char *scratch; /* `stride` bytes per thread */
    size_t stride;
} heads_work;

/* Units begin..end; a unit is one head of one sequence. */
static void gradient_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const heads_work *w = context;
    for (; begin < end; begin++) {
        const ptrdiff_t index = begin / w->p->count;
        const rk_sequence *s = &w->all->sequences[index];
        w->wkv->heads_gradient(w->p, s->begin, s->end - s->begin, begin % w->p->count, s->read, s->write,
                         w->parts + (size_t)index * w->part, w->scratch + (size_t)thread * w->stride);
    }
}

void rk_run_heads_gradient(const rk_ops *ops, int version, const rk_heads *p, const rk_tokens *all, void *parts,
                           void *scratch, int threads)
{
    const rk_wkv *wkv = &ops->wkv[version];
    const ptrdiff_t elements = wkv->sums * p->count * p->size;
    heads_work w = {ops, wkv, p, all, parts, (size_t)elements * ops->sumsize, scratch,
              rk_heads_gradient_scratch(ops, version, p->size, rk_longest_sequence(all))};
    rk_parallel(all->sequence_count * p->count, 1, threads, gradient_piece, &w);
    /* In the order of the sequences, so that the sums do not depend on the number of threads. */
    for (ptrdiff_t i = 1; i < all->sequence_count; i++)
        ops->add(w.parts, w.parts + (size_t)i * w.part, 0, elements);
}

typedef struct {
    const rk_ops *ops;
    int activation;
    const char *x;
    char *y;
} activate_work;

static void activate_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const activate_work *w = context;
    const size_t at = (size_t)begin * w->ops->sumsize;
    (void)thread;
    (w->activation == RK_TANH ? w->ops->tanh : w->ops->sigmoid)(w->x + at, w->y + at, end - begin);
}

void rk_activate(const rk_ops *ops, int activation, const void *x, ptrdiff_t n, void *y, int threads)
{
    activate_work w = {ops, activation, x, y};
    rk_parallel(n, PIECE_ELEMENTS, threads, activate_piece, &w);
}

static void activate_gradient_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const activate_work *w = context;
    const rk_gradients *gradients = &w->ops->gradients;
    (void)thread;
    (w->activation == RK_TANH ? gradients->tanh : gradients->sigmoid)(w->x, w->y, begin, end);
}

void rk_activate_gradient(const rk_ops *ops, int activation, const void *y, ptrdiff_t n, void *d, int threads)
{
    activate_work w = {ops, activation, y, d};
    rk_parallel(n, PIECE_ELEMENTS, threads, activate_gradient_piece, &w);
}
