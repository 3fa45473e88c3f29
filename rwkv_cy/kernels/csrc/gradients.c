/* The backward pass of a layer, split into pieces for the threads. What is summed over tokens is summed by one thread
 * for a range of channels, in the order of the tokens: results do not depend on the number of threads. */
#include "gradients.h"

#include "codec/quant.h"
#include "pieces.h"
#include "scalar.h"

#define CHANNELS ((ptrdiff_t)16) /* whole cache lines */
#define OUTER_ELEMENTS ((ptrdiff_t)1 << 20) /* of a part of an outer product */

static ptrdiff_t parts_of(ptrdiff_t width) { return (width + CHANNELS - 1) / CHANNELS; }

/* Channels of a piece that reads `tokens` elements of each. */
static ptrdiff_t channel_grain(ptrdiff_t tokens) { return at_least_one(PIECE_ELEMENTS / (tokens * CHANNELS)); }

typedef struct {
    const rk_ops *ops;
    const void *x, *weight, *dy;
    double eps;
    ptrdiff_t tokens, width;
    void *dx, *moments, *d_weight, *d_bias;
} norm_work;

static void norm_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const norm_work *w = context;
    (void)thread;
    w->ops->gradients.layer_norm(w->x, w->weight, w->eps, w->dy, w->width, w->dx, w->moments, begin, end);
}

static void norm_parameters_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const norm_work *w = context;
    (void)thread;
    w->ops->gradients.layer_norm_parameters(w->x, w->moments, w->dy, w->tokens, w->width, w->d_weight, w->d_bias,
                                            begin * CHANNELS, at_most(end * CHANNELS, w->width));
}

void rk_layer_norm_gradient(const rk_ops *ops, const void *x, const void *weight, double eps, const void *dy,
                            ptrdiff_t tokens, ptrdiff_t width, void *dx, void *d_weight, void *d_bias, void *moments,
                            int threads)
{
    norm_work work = {ops, x, weight, dy, eps, tokens, width, dx, moments, d_weight, d_bias};
    rk_parallel(tokens, at_least_one(PIECE_ELEMENTS / width), threads, norm_piece, &work);
    if (d_weight != NULL || d_bias != NULL)
        rk_parallel(parts_of(width), channel_grain(tokens), threads, norm_parameters_piece, &work);
}

typedef struct {
    const rk_ops *ops;
    const rk_shift_gradient *shifts;
    int count, lerped;
    const char *x;
    char *dx;
    const void *mix, *more;
    size_t before;
    const rk_tokens *all;
    ptrdiff_t width;
} shift_work;

static void shift_gradient_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const shift_work *w = context;
    (void)thread;
    for (ptrdiff_t i = 0; i < w->all->sequence_count; i++) {
        const rk_sequence *s = &w->all->sequences[i];
        const ptrdiff_t offset = s->begin * w->width;
        const size_t bytes = (size_t)offset * w->ops->sumsize;
        w->ops->gradients.shift(w->shifts, w->count, w->lerped, w->x + bytes, s->read + w->before, offset,
                                s->end - s->begin, w->width, w->dx + bytes, s->write + w->before, begin * CHANNELS,
                                at_most(end * CHANNELS, w->width));
    }
}

void rk_shift_gradients(const rk_ops *ops, const rk_shift_gradient *shifts, int count, int lerped, const void *x,
                        size_t before, const rk_tokens *all, ptrdiff_t width, void *dx, int threads)
{
    shift_work work = {.ops = ops, .shifts = shifts, .count = count, .lerped = lerped, .x = x, .dx = dx,
                       .before = before, .all = all, .width = width};
    rk_parallel(parts_of(width), channel_grain(all->count), threads, shift_gradient_piece, &work);
}

static void shift_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const shift_work *w = context;
    const size_t row = (size_t)w->width * w->ops->sumsize;
    (void)thread;
    for (ptrdiff_t t = begin; t < end; t++) {
        const rk_sequence *s = rk_sequence_of(w->all, t);
        const char *x = w->x + (size_t)t * row, *before = t == s->begin ? s->read + w->before : x - row;
        char *y = w->dx + (size_t)t * row;
        if (w->lerped)
            w->ops->token_lerp(x, before, w->mix, w->more == NULL ? NULL : (const char *)w->more + (size_t)t * row,
                               w->width, y);
        else
            w->ops->token_shift(x, before, w->mix, w->width, y);
    }
}

void rk_shift_tokens(const rk_ops *ops, int lerped, const void *x, const void *mix, const void *more, size_t before,
                     const rk_tokens *all, ptrdiff_t width, void *y, int threads)
{
    shift_work work = {.ops = ops, .lerped = lerped, .x = x, .dx = y, .mix = mix, .more = more, .before = before,
                       .all = all, .width = width};
    rk_parallel(all->count, at_least_one(PIECE_ELEMENTS / width), threads, shift_piece, &work);
}

void rk_take_last(const rk_ops *ops, const rk_tokens *all, ptrdiff_t width, size_t field, void *dx)
{
    const size_t row = (size_t)width * ops->sumsize;
    for (ptrdiff_t i = 0; i < all->sequence_count; i++) {
        char *d_state = all->sequences[i].write + field;
        ops->add((char *)dx + (size_t)(all->sequences[i].end - 1) * row, d_state, 0, width);
        memset(d_state, 0, row);
    }
}

typedef struct {
    const rk_ops *ops;
    const void *gate, *x, *dy;
    void *dx, *d_gate;
} element_work;

static void gated_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const element_work *w = context;
    (void)thread;
    w->ops->gradients.gated(w->gate, w->x, w->dy, w->dx, w->d_gate, begin, end);
}

void rk_gated_gradient(const rk_ops *ops, const void *gate, const void *x, const void *dy, ptrdiff_t n, void *dx,
                       void *d_gate, int threads)
{
    element_work work = {ops, gate, x, dy, dx, d_gate};
    rk_parallel(n, PIECE_ELEMENTS, threads, gated_piece, &work);
}

static void relu_squared_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const element_work *w = context;
    const size_t at = (size_t)begin * w->ops->sumsize;
    (void)thread;
    w->ops->relu_squared((const char *)w->x + at, (char *)w->dx + at, end - begin);
}

void rk_relu_squared(const rk_ops *ops, const void *x, ptrdiff_t n, void *y, int threads)
{
    element_work work = {.ops = ops, .x = x, .dx = y};
    rk_parallel(n, PIECE_ELEMENTS, threads, relu_squared_piece, &work);
}

static void relu_squared_gradient_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const element_work *w = context;
    (void)thread;
    w->ops->gradients.relu_squared(w->x, w->dx, begin, end);
}

void rk_relu_squared_gradient(const rk_ops *ops, const void *x, ptrdiff_t n, void *d, int threads)
{
    element_work work = {.ops = ops, .x = x, .dx = d};
    rk_parallel(n, PIECE_ELEMENTS, threads, relu_squared_gradient_piece, &work);
}

static void add_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const element_work *w = context;
    (void)thread;
    w->ops->add(w->dx, w->x, begin, end);
}

void rk_add(const rk_ops *ops, const void *x, ptrdiff_t n, void *y, int threads)
{
    element_work work = {.ops = ops, .x = x, .dx = y};
    rk_parallel(n, PIECE_ELEMENTS, threads, add_piece, &work);
}

typedef struct {
    const rk_ops *ops;
    char *logits;
    const long long *targets;
    const double *weights;
    double l2_wrap, *losses;
    ptrdiff_t vocab_size;
} loss_work;

static void loss_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const loss_work *w = context;
    (void)thread;
    for (ptrdiff_t t = begin; t < end; t++)
        w->losses[t] = w->ops->gradients.cross_entropy(w->logits + (size_t)(t * w->vocab_size) * w->ops->sumsize,
                                                       w->vocab_size, w->targets[t], w->weights[t], w->l2_wrap);
}

void rk_cross_entropy(const rk_ops *ops, void *logits, const long long *targets, const double *weights, double l2_wrap,
                      ptrdiff_t tokens, ptrdiff_t vocab_size, double *losses, int threads)
{
    loss_work work = {ops, logits, targets, weights, l2_wrap, losses, vocab_size};
    rk_parallel(tokens, at_least_one(PIECE_ELEMENTS / vocab_size), threads, loss_piece, &work);
}

typedef struct {
    const rk_wkv *wkv;
    const rk_channels *p;
    const rk_tokens *all;
    char *scratch; /* `stride` bytes per thread */
    size_t stride;
} channels_work;

static void channels_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const channels_work *w = context;
    for (ptrdiff_t i = 0; i < w->all->sequence_count; i++) {
        const rk_sequence *s = &w->all->sequences[i];
        w->wkv->channels_gradient(w->p, s->begin, s->end - s->begin, s->read, s->write, begin * CHANNELS,
                                  at_most(end * CHANNELS, w->p->width), w->scratch + (size_t)thread * w->stride);
    }
}

/* Bytes of one thread's scratch: three vectors for each token of the longest sequence. */
static size_t channels_stride(const rk_ops *ops, const rk_tokens *all)
{
    ptrdiff_t longest = 1;
    for (ptrdiff_t i = 0; i < all->sequence_count; i++) {
        const ptrdiff_t tokens = all->sequences[i].end - all->sequences[i].begin;
        longest = tokens > longest ? tokens : longest;
    }
    return (size_t)round_up(longest * 3 * ops->lanes * (ptrdiff_t)ops->sumsize, 128);
}

size_t rk_channels_gradient_scratch(const rk_ops *ops, const rk_tokens *all, int threads)
{
    return (size_t)threads * channels_stride(ops, all);
}

void rk_run_channels_gradient(const rk_ops *ops, int version, const rk_channels *p, const rk_tokens *all,
                              void *scratch, int threads)
{
    channels_work work = {&ops->wkv[version], p, all, scratch, channels_stride(ops, all)};
    rk_parallel(parts_of(p->width), channel_grain(all->count * 8), threads, channels_piece, &work);
}

typedef struct {
    const rk_matrix *m;
    char *out;
} decode_work;

/* Groups begin..end of sixteen rows. */
static void dequantize_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const decode_work *w = context;
    const rk_matrix *m = w->m;
    const ptrdiff_t group = rk_q_blocks(m->dtype, m->cols) * rk_q_bytes(m->dtype), first = begin * RK_Q_ROWS;
    (void)thread;
    rk_dequantize((const char *)m->data + begin * group, at_most(end * RK_Q_ROWS, m->rows) - first, m->cols, m->dtype,
                  (float *)w->out + first * m->cols);
}

/* Elements begin..end. */
static void widen_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const decode_work *w = context;
    const uint16_t *words = w->m->data;
    const size_t itemsize = w->m->dtype == RK_F64 ? 8 : 4;
    float *out = (float *)w->out;
    (void)thread;
    switch (w->m->dtype) {
    case RK_F16:
        for (ptrdiff_t i = begin; i < end; i++) out[i] = rk_f16_to_f32(words[i]);
        break;
    case RK_BF16:
        for (ptrdiff_t i = begin; i < end; i++) out[i] = rk_bf16_to_f32(words[i]);
        break;
    default:
        memcpy(w->out + (size_t)begin * itemsize, (const char *)w->m->data + (size_t)begin * itemsize,
               (size_t)(end - begin) * itemsize);
    }
}

void rk_to_floats(const rk_matrix *m, void *out, int threads)
{
    decode_work work = {m, out};
    if (rk_q_quantized(m->dtype))
        rk_parallel((m->rows + RK_Q_ROWS - 1) / RK_Q_ROWS, at_least_one(PIECE_ELEMENTS / (RK_Q_ROWS * m->cols)),
                    threads, dequantize_piece, &work);
    else
        rk_parallel(m->rows * m->cols, PIECE_ELEMENTS, threads, widen_piece, &work);
}

/* Rows of a result (rows, width) that are computed together. */
static ptrdiff_t rows_together(ptrdiff_t rows, ptrdiff_t width)
{
    return at_most(rows, round_up(at_least_one(OUTER_ELEMENTS / width), 64));
}

static size_t aligned(ptrdiff_t elements, const rk_ops *ops)
{
    return (size_t)round_up(elements * (ptrdiff_t)ops->sumsize, 64);
}

size_t rk_add_product_scratch(const rk_ops *ops, ptrdiff_t rows, const rk_matrix *m, int threads)
{
    const ptrdiff_t most = rows_together(rows, m->rows), left = rows % most;
    const size_t whole = rk_matmul_scratch(ops, m, most, threads);
    const size_t rest = left ? rk_matmul_scratch(ops, m, left, threads) : 0;
    return aligned(most * m->rows, ops) + (whole > rest ? whole : rest);
}

void rk_add_product(const rk_ops *ops, const void *x, ptrdiff_t rows, const rk_matrix *m, void *g, void *scratch,
                    int threads)
{
    const ptrdiff_t most = rows_together(rows, m->rows);
    for (ptrdiff_t first = 0; first < rows; first += most) {
        const rk_tokens some = {at_most(most, rows - first), NULL, 0};
        const rk_product product = {.m = m, .x = (const char *)x + (size_t)(first * m->cols) * ops->sumsize,
                                    .stride = m->cols, .y = scratch, .then = RK_ADD,
                                    .into = (char *)g + (size_t)(first * m->rows) * ops->sumsize};
        rk_matmul(ops, &product, 1, &some, (char *)scratch + aligned(most * m->rows, ops), threads);
    }
}

static rk_matrix as_matrix(const rk_ops *ops, const void *b, ptrdiff_t b_width, ptrdiff_t tokens, double scale)
{
    return (rk_matrix){.data = b, .rows = b_width, .cols = tokens, .dtype = ops->sumsize == 8 ? RK_F64 : RK_F32,
                       .scale = scale, .transposed = 1};
}

size_t rk_outer_scratch(const rk_ops *ops, ptrdiff_t a_width, ptrdiff_t b_width, ptrdiff_t tokens, int threads)
{
    const ptrdiff_t most = rows_together(a_width, b_width), left = a_width % most;
    const rk_matrix m = as_matrix(ops, NULL, b_width, tokens, 1);
    const size_t whole = rk_add_product_scratch(ops, most, &m, threads);
    const size_t rest = left ? rk_add_product_scratch(ops, left, &m, threads) : 0;
    return aligned(most * tokens, ops) + (whole > rest ? whole : rest);
}

typedef struct {
    const char *a;
    size_t itemsize;
    ptrdiff_t stride, tokens;
    char *out;
} transpose_work;

static void transpose_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const transpose_work *w = context;
    (void)thread;
    rk_transpose(w->a + (size_t)begin * w->itemsize, w->itemsize, (size_t)w->tokens, (size_t)(end - begin),
                 (size_t)w->stride, w->out + (size_t)(begin * w->tokens) * w->itemsize, (size_t)w->tokens);
}

void rk_outer(const rk_ops *ops, const void *a, ptrdiff_t a_width, ptrdiff_t a_stride, const void *b, ptrdiff_t b_width,
              ptrdiff_t tokens, double scale, void *g, void *scratch, int threads)
{
    const ptrdiff_t most = rows_together(a_width, b_width);
    const rk_matrix m = as_matrix(ops, b, b_width, tokens, scale);
    char *rest = (char *)scratch + aligned(most * tokens, ops);
    for (ptrdiff_t first = 0; first < a_width; first += most) {
        const ptrdiff_t rows = at_most(most, a_width - first);
        transpose_work work = {(const char *)a + (size_t)first * ops->sumsize, ops->sumsize, a_stride, tokens, scratch};
        rk_parallel(rows, round_up(at_least_one(PIECE_ELEMENTS / tokens), CHANNELS), threads, transpose_piece, &work);
        rk_add_product(ops, scratch, rows, &m, (char *)g + (size_t)(first * b_width) * ops->sumsize, rest, threads);
    }
}
