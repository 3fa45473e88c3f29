/* What a layer does besides its products, shared among threads: what is split, and into pieces of what size. */
#include "pieces.h"

#define PIECE_EXPS ((ptrdiff_t)2 << 10) /* of WKV steps, three exponentials each */
#define WKV_CHANNELS ((ptrdiff_t)64)    /* whole cache lines, so that no two threads write into one */

const rk_sequence *rk_sequence_of(const rk_tokens *all, ptrdiff_t t)
{
    ptrdiff_t first = 0, last = all->sequence_count - 1;
    while (first < last) {
        const ptrdiff_t middle = first + (last - first) / 2;
        if (t < all->sequences[middle].end)
            last = middle;
        else
            first = middle + 1;
    }
    return &all->sequences[first];
}

typedef struct {
    const rk_ops *ops;
    const void *x, *weight, *bias;
    void *y;
    double number;
    ptrdiff_t width;
} sweep;

static void layer_norm_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    sweep *s = context;
    (void)thread;
    s->ops->layer_norm(s->x, s->weight, s->bias, s->number, s->width, s->y, begin, end);
}

void rk_layer_norm(const rk_ops *ops, const void *x, const void *weight, const void *bias, double eps,
                   ptrdiff_t tokens, ptrdiff_t width, void *y, int threads)
{
    sweep s = {.ops = ops, .x = x, .weight = weight, .bias = bias, .number = eps, .width = width, .y = y};
    rk_parallel(tokens, at_least_one(PIECE_ELEMENTS / width), threads, layer_norm_piece, &s);
}

static void multiply_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    sweep *s = context;
    (void)thread;
    s->ops->multiply(s->y, s->number, begin, end);
}

void rk_multiply(const rk_ops *ops, void *x, double factor, ptrdiff_t n, int threads)
{
    sweep s = {.ops = ops, .y = x, .number = factor};
    rk_parallel(n, PIECE_ELEMENTS, threads, multiply_piece, &s);
}

typedef struct {
    const rk_ops *ops;
    const rk_tokens *all;
    const void *w, *u;
    const char *k, *v, *r;
    char *y;
    ptrdiff_t width, parts; /* channels of a token, and into how many parts they are cut */
} wkv4_work;

/* Units begin..end: parts of the channels, of one sequence after the other. */
static void wkv4_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const wkv4_work *work = context;
    (void)thread;
    while (begin < end) {
        const ptrdiff_t part = begin % work->parts, last = at_most(part + end - begin, work->parts);
        const rk_sequence *s = &work->all->sequences[begin / work->parts];
        const size_t skip = (size_t)(s->begin * work->width) * work->ops->sumsize;
        const char *r = work->r == NULL ? NULL : work->r + skip;
        char *y = work->y == NULL ? NULL : work->y + skip;
        work->ops->wkv4(work->w, work->u, work->k + skip, work->v + skip, r, s->end - s->begin, work->width, s->aa,
                        s->bb, s->pp, y, part * WKV_CHANNELS, at_most(last * WKV_CHANNELS, work->width));
        begin += last - part;
    }
}

void rk_wkv4(const rk_ops *ops, const void *w, const void *u, const void *k, const void *v, const void *r,
             const rk_tokens *all, ptrdiff_t width, void *y, int threads)
{
    wkv4_work work = {ops, all, w, u, k, v, r, y, width, (width + WKV_CHANNELS - 1) / WKV_CHANNELS};
    ptrdiff_t longest = 1;
    for (ptrdiff_t i = 0; i < all->sequence_count; i++) {
        const ptrdiff_t tokens = all->sequences[i].end - all->sequences[i].begin;
        longest = tokens > longest ? tokens : longest;
    }
    rk_parallel(all->sequence_count * work.parts, at_least_one(PIECE_EXPS / (longest * WKV_CHANNELS)), threads,
                wkv4_piece, &work);
}
