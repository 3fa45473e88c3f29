/* Work of a layer other than its products, split into pieces for the threads: LayerNorm, scaling, WKV. */
#include "pieces.h"

#define PIECE_EXPS ((ptrdiff_t)2 << 10) /* WKV steps, three exponentials each */
#define CHANNELS ((ptrdiff_t)64)         /* whole cache lines, so that two threads never write to the same one */
#define PIECE_STATE ((ptrdiff_t)8 << 10) /* elements of a matrix-valued state */
#define HEAD_ROWS ((ptrdiff_t)16)        /* fewest rows of a head: whole cache lines of the result */

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
    const void *x, *m;
    void *y;
    ptrdiff_t size;
} token_matrices_work;

static void token_matrices_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const token_matrices_work *work = context;
    (void)thread;
    work->ops->token_matrices(work->x, work->m, work->size, work->y, begin, end);
}

void rk_token_matrices(const rk_ops *ops, const void *x, const void *m, ptrdiff_t tokens, ptrdiff_t size, void *y,
                       int threads)
{
    token_matrices_work work = {ops, x, m, y, size};
    rk_parallel(tokens, at_least_one(PIECE_ELEMENTS / (size * size)), threads, token_matrices_piece, &work);
}

ptrdiff_t rk_longest_sequence(const rk_tokens *all)
{
    ptrdiff_t longest = 1;
    for (ptrdiff_t i = 0; i < all->sequence_count; i++) {
        const ptrdiff_t tokens = all->sequences[i].end - all->sequences[i].begin;
        longest = tokens > longest ? tokens : longest;
    }
    return longest;
}

/* The tokens of a sequence from *begin on that share a state: all of them, or one if each has a state of its own.
 * *read and *write become the states before and after them; *begin, the first token of the next call. */
static ptrdiff_t next_tokens(const rk_sequence *s, ptrdiff_t *begin, const char **read, char **write)
{
    const ptrdiff_t first = *begin, count = s->stride != 0 ? 1 : s->end - first;
    *read = first == s->begin ? s->read : s->write + (first - s->begin - 1) * s->stride;
    *write = s->write + (first - s->begin) * s->stride;
    *begin = first + count;
    return count;
}

typedef struct {
    const rk_wkv *wkv;
    const rk_channels *p;
    const rk_tokens *all;
    ptrdiff_t parts; /* of the channels */
} channels_work;

/* Units begin..end; a unit is one part of the channels of one sequence. */
static void channels_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const channels_work *work = context;
    (void)thread;
    while (begin < end) {
        const ptrdiff_t part = begin % work->parts, last = at_most(part + end - begin, work->parts);
        const rk_sequence *s = &work->all->sequences[begin / work->parts];
        const char *read;
        char *write;
        for (ptrdiff_t t = s->begin; t < s->end;) {
            const ptrdiff_t first = t, count = next_tokens(s, &t, &read, &write);
            work->wkv->channels(work->p, first, count, read, write, part * CHANNELS,
                                at_most(last * CHANNELS, work->p->width));
        }
        begin += last - part;
    }
}

void rk_run_channels(const rk_ops *ops, int version, const rk_channels *p, const rk_tokens *all, int threads)
{
    channels_work work = {&ops->wkv[version], p, all, (p->width + CHANNELS - 1) / CHANNELS};
    rk_parallel(all->sequence_count * work.parts, at_least_one(PIECE_EXPS / (rk_longest_sequence(all) * CHANNELS)),
                threads, channels_piece, &work);
}

typedef struct {
    const rk_wkv *wkv;
    const rk_heads *p;
    const rk_tokens *all;
    size_t head_bytes; /* of the state */
    ptrdiff_t parts;   /* of the value rows of a head */
    char *scratch;     /* `stride` bytes per thread */
    size_t stride;
} heads_work;

/* The state of a unit that is a whole head, before its first token; NULL past the last unit. */
static const void *state_ahead(const heads_work *work, ptrdiff_t unit)
{
    const ptrdiff_t heads = work->p->count;
    if (work->parts > 1 || unit == work->all->sequence_count * heads) return NULL;
    return work->all->sequences[unit / heads].read + work->p->kv + (size_t)(unit % heads) * work->head_bytes;
}

/* Units begin..end; a unit is one part of the rows of one head of one sequence. */
static void rows_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const heads_work *work = context;
    const rk_heads *p = work->p;
    for (; begin < end; begin++) {
        const ptrdiff_t part = begin % work->parts, head = begin / work->parts % p->count;
        const rk_sequence *s = &work->all->sequences[begin / work->parts / p->count];
        const void *ahead = state_ahead(work, begin + 1);
        const char *read;
        char *write;
        for (ptrdiff_t t = s->begin; t < s->end; ahead = NULL) {
            const ptrdiff_t first = t, count = next_tokens(s, &t, &read, &write);
            work->wkv->rows(p, first, count, head, read, write, part * p->size / work->parts,
                            (part + 1) * p->size / work->parts, ahead, work->scratch + (size_t)thread * work->stride);
        }
        if (work->parts == 1 && p->y != NULL) work->wkv->finish(p, s->begin, s->end - s->begin, head);
    }
}

/* Units begin..end; a unit is one head of one sequence. */
static void finish_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const heads_work *work = context;
    (void)thread;
    for (; begin < end; begin++) {
        const rk_sequence *s = &work->all->sequences[begin / work->p->count];
        work->wkv->finish(work->p, s->begin, s->end - s->begin, begin % work->p->count);
    }
}

void rk_run_heads(const rk_ops *ops, int version, const rk_heads *p, const rk_tokens *all, void *scratch, int threads)
{
    const ptrdiff_t heads = all->sequence_count * p->count, tokens = rk_longest_sequence(all);
    /* With fewer heads than threads, several threads share a head. */
    ptrdiff_t parts = (threads + heads - 1) / at_least_one(heads);
    if (parts > p->size / HEAD_ROWS) parts = at_least_one(p->size / HEAD_ROWS);
    heads_work work = {&ops->wkv[version], p, all, (size_t)(p->size * p->size) * ops->sumsize, parts, scratch,
                       rk_heads_scratch(ops, version, p->size)};
    rk_parallel(heads * parts, at_least_one(PIECE_STATE * parts / at_least_one(tokens * p->size * p->size)), threads,
                rows_piece, &work);
    if (parts > 1 && p->y != NULL) rk_parallel(heads, 1, threads, finish_piece, &work);
}
