/* Each operation of a layer, shared among threads: what is split, and into pieces of what size. */
#include "bf12.h"
#include "columns.h"
#include "quant.h"

/* A piece of work should take some microseconds, or waking a thread costs more than it brings. */
#define MOST_BYTES ((ptrdiff_t)1 << 20)   /* of weights to read */
#define LEAST_BYTES ((ptrdiff_t)16 << 10)
#define PIECES_A_THREAD 4
#define STREAMED_PIECES 2 /* where weights are read once: longer runs, whose ends cost the CPU's reading ahead */
#define FINER 4 /* the last pieces are so much smaller: a thread that takes the last one is not waited for so long */
#define WHOLE_LINES 8 /* panels, whose rows are whole cache lines of a transposed matrix */
#define PIECE_ELEMENTS ((ptrdiff_t)16 << 10) /* of activations to pass over */
#define PIECE_EXPS ((ptrdiff_t)2 << 10)      /* of WKV steps, five exponentials each */

static ptrdiff_t at_least_one(ptrdiff_t n) { return n > 1 ? n : 1; }

static ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t unit) { return (n + unit - 1) / unit * unit; }

typedef struct {
    const rk_ops *ops;
    const rk_matrix *m;
    const void *x;
    ptrdiff_t tokens;
    void *y;
    char *packed, *scratch;
    size_t scratch_stride;
} product;

/* Products that read their weights once: units are rows, or groups of rows where the matrix is quantized. */
typedef struct {
    product parts[RK_MOST_PRODUCTS];
    ptrdiff_t units[RK_MOST_PRODUCTS], pieces[RK_MOST_PRODUCTS];
    /* The first pieces have `grain` units, up to unit number `coarse_units`; the others have `fine_grain`. */
    ptrdiff_t grain[RK_MOST_PRODUCTS], fine_grain[RK_MOST_PRODUCTS], coarse_units[RK_MOST_PRODUCTS];
} streamed;

static void round_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    product *p = context;
    (void)thread;
    p->ops->round(p->x, p->packed, begin, end);
}

static void pack_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    product *p = context;
    (void)thread;
    p->ops->pack_tokens(p->x, p->tokens, p->m->cols, p->packed, begin, end);
}

static void panels_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    product *p = context;
    p->ops->panels(p->m, p->packed, p->tokens, p->y, p->m->rows, begin, end,
                   p->scratch + (size_t)thread * p->scratch_stride);
}

static void quantize_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    product *p = context;
    (void)thread;
    p->ops->quantize_tokens(p->x, p->m->dtype, p->m->cols, p->tokens, p->packed, begin, end);
}

static int is_quantized(const rk_matrix *m) { return m->dtype == RK_Q8 || m->dtype == RK_Q4; }

static void streamed_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    streamed *s = context;
    (void)thread;
    for (ptrdiff_t piece = begin; piece < end; piece++) {
        ptrdiff_t i = 0, at = piece;
        while (at >= s->pieces[i]) at -= s->pieces[i++];
        const product *p = &s->parts[i];
        ptrdiff_t coarse = s->coarse_units[i] / s->grain[i];
        ptrdiff_t grain = at < coarse ? s->grain[i] : s->fine_grain[i];
        ptrdiff_t first = at < coarse ? at * grain : s->coarse_units[i] + (at - coarse) * grain;
        ptrdiff_t last = first + grain < s->units[i] ? first + grain : s->units[i];
        if (is_quantized(p->m))
            p->ops->groups(p->m, p->packed, p->tokens, p->y, p->m->rows, first, last);
        else
            p->ops->rows(p->m, p->x, p->tokens, p->y, p->m->rows, first, last);
    }
}

static ptrdiff_t row_bytes(const rk_matrix *m)
{
    if (m->dtype == RK_BF12) return rk_bf12_group(m->cols) / RK_BF12_ROWS;
    return m->cols * (m->dtype == RK_F64 ? 8 : m->dtype == RK_F32 ? 4 : 2);
}

/* The products of `s->parts`, their quantized activations laid out, as one shared operation. */
static void run_streamed(streamed *s, int count, int threads)
{
    ptrdiff_t unit_bytes[RK_MOST_PRODUCTS], total = 0, pieces = 0;
    for (int i = 0; i < count; i++) {
        const product *p = &s->parts[i];
        int quantized = is_quantized(p->m);
        s->units[i] = quantized ? (p->m->rows + RK_Q_ROWS - 1) / RK_Q_ROWS : p->m->rows;
        unit_bytes[i] = quantized ? rk_q_blocks(p->m->dtype, p->m->cols) * rk_q_bytes(p->m->dtype)
                                  : row_bytes(p->m);
        /* The work of a piece: the bytes to read for few tokens, the products for many. */
        unit_bytes[i] = at_least_one(unit_bytes[i] * (p->tokens < 16 ? 1 : p->tokens / 8));
        total += s->units[i] * unit_bytes[i];
    }
    ptrdiff_t piece_bytes = total / (STREAMED_PIECES * (ptrdiff_t)threads);
    piece_bytes = piece_bytes < LEAST_BYTES ? LEAST_BYTES : piece_bytes > MOST_BYTES ? MOST_BYTES : piece_bytes;
    for (int i = 0; i < count; i++) {
        /* `rows` takes four rows together. */
        ptrdiff_t step = is_quantized(s->parts[i].m) ? s->parts[i].ops->wide_groups : 4;
        ptrdiff_t fine_bytes = piece_bytes / FINER < LEAST_BYTES ? LEAST_BYTES : piece_bytes / FINER;
        s->grain[i] = round_up(at_least_one(piece_bytes / unit_bytes[i]), step);
        s->fine_grain[i] = round_up(at_least_one(fine_bytes / unit_bytes[i]), step);
        /* Of the last product, one coarse piece for each thread is cut up. */
        ptrdiff_t coarse = s->units[i] / s->grain[i] - (i + 1 == count ? threads : 0);
        s->coarse_units[i] = coarse > 0 ? coarse * s->grain[i] : 0;
        s->pieces[i] = s->coarse_units[i] / s->grain[i] +
                       (s->units[i] - s->coarse_units[i] + s->fine_grain[i] - 1) / s->fine_grain[i];
        pieces += s->pieces[i];
    }
    rk_parallel(pieces, 1, threads, streamed_piece, s);
}

static void quantize_activations(product *p, int threads)
{
    rk_parallel(p->tokens, at_least_one(PIECE_ELEMENTS / at_least_one(p->m->cols)), threads, quantize_piece, p);
}

static ptrdiff_t padded_cols(const rk_ops *ops, ptrdiff_t cols) { return round_up(cols, ops->lanes); }

/* Bytes of one thread's scratch: a block of packed panels, and accumulators that wait: of all tokens, of one group, or
 * none, if the columns take several runs, several steps, or one. */
static size_t thread_scratch(const rk_ops *ops, ptrdiff_t tokens, const rk_matrix *m)
{
    ptrdiff_t padded = padded_cols(ops, m->cols), run = rk_panel_run(padded, ops->itemsize);
    ptrdiff_t waiting = run < padded                                  ? round_up(tokens, ops->panel_tokens)
                        : rk_panel_step(padded, ops->itemsize) < run ? ops->panel_tokens
                                                                      : 0;
    ptrdiff_t elements = (run + waiting * ops->lanes) * ops->panel_rows * rk_block_panels(padded, ops->itemsize);
    return (size_t)round_up(elements * (ptrdiff_t)ops->itemsize, 4096);
}

static size_t packed_bytes(const rk_ops *ops, ptrdiff_t tokens, ptrdiff_t cols)
{
    ptrdiff_t elements = padded_cols(ops, cols) * round_up(tokens, ops->panel_tokens);
    return (size_t)round_up(elements * (ptrdiff_t)ops->itemsize, 4096);
}

static int is_rounded(const rk_matrix *m) { return m->rounded && m->dtype == RK_BF16; }

/* Who computes products with m. */
static const rk_ops *ops_for(const rk_ops *ops, const rk_matrix *m)
{
    return is_rounded(m) && ops->bf16 != NULL ? ops->bf16 : ops;
}

static size_t rounded_bytes(const rk_ops *ops, const rk_matrix *m, ptrdiff_t tokens)
{
    return is_rounded(m) ? (size_t)round_up(tokens * m->cols * (ptrdiff_t)ops->itemsize, 4096) : 0;
}

/* Whether so many tokens are multiplied by packed panels, and not by what reads the matrix as it lies. */
static int is_packed(const rk_ops *ops, const rk_matrix *m, ptrdiff_t tokens)
{
    return !is_quantized(m) && tokens >= ops->few_tokens;
}

size_t rk_matmul_scratch(const rk_ops *ops, const rk_matrix *m, ptrdiff_t tokens, int threads)
{
    if (is_quantized(m))
        return (size_t)round_up(tokens * rk_q_blocks(m->dtype, m->cols) * rk_x_bytes(m->dtype), 64);
    ops = ops_for(ops, m);
    size_t rounded = rounded_bytes(ops, m, tokens);
    if (!is_packed(ops, m, tokens)) return rounded + (m->transposed ? rk_columns_scratch(ops, m, tokens) : 0);
    return rounded + packed_bytes(ops, tokens, m->cols) + (size_t)threads * thread_scratch(ops, tokens, m);
}

static void packed_product(product *p, int threads)
{
    const rk_ops *ops = p->ops;
    const rk_matrix *m = p->m;
    ptrdiff_t groups = (p->tokens + ops->panel_tokens - 1) / ops->panel_tokens;
    ptrdiff_t panels = (m->rows + ops->panel_rows - 1) / ops->panel_rows;
    p->scratch = p->packed + packed_bytes(ops, p->tokens, m->cols);
    p->scratch_stride = thread_scratch(ops, p->tokens, m);
    rk_parallel(groups, at_least_one(PIECE_ELEMENTS / at_least_one(m->cols * ops->panel_tokens)), threads, pack_piece,
                p);
    /* Runs of whole blocks, where there are enough for all: a thread asks for the weights of the block that comes next,
     * and should be who takes it. */
    ptrdiff_t work = at_least_one(m->cols * p->tokens * ops->panel_rows);
    ptrdiff_t block = rk_block_panels(padded_cols(ops, m->cols), ops->itemsize);
    ptrdiff_t least = at_least_one((ptrdiff_t)1000000 / work), share = panels / (PIECES_A_THREAD * (ptrdiff_t)threads);
    ptrdiff_t grain = least > share ? least : share;
    if (grain > block || m->transposed) grain = round_up(grain, grain > block ? block : WHOLE_LINES);
    rk_parallel(panels, grain, threads, panels_piece, p);
}

void rk_matmul(const rk_ops *ops, const rk_product *products, int count, ptrdiff_t tokens, void *scratch, int threads)
{
    streamed together;
    char *free_scratch = scratch;
    int waiting = 0;
    for (int i = 0; i < count; i++) {
        const rk_matrix *m = products[i].m;
        product p = {ops_for(ops, m), m, products[i].x, tokens, products[i].y, free_scratch, NULL, 0};
        if (is_rounded(m)) {
            rk_parallel(tokens * m->cols, PIECE_ELEMENTS, threads, round_piece, &p);
            p.x = p.packed;
            p.packed += rounded_bytes(p.ops, m, tokens);
        }
        if (is_packed(p.ops, m, tokens)) {
            packed_product(&p, threads);
            continue;
        }
        if (m->transposed) {
            rk_columns(p.ops, m, p.x, tokens, p.y, p.packed, threads);
            continue;
        }
        if (is_quantized(m)) quantize_activations(&p, threads);
        /* What waits for its turn keeps its scratch. */
        free_scratch += rk_matmul_scratch(ops, m, tokens, threads);
        together.parts[waiting++] = p;
    }
    if (waiting) run_streamed(&together, waiting, threads);
}

typedef struct {
    const rk_ops *ops;
    const void *a, *b, *c, *d, *e;
    void *s0, *s1, *s2, *y;
    double number;
    ptrdiff_t tokens, width;
} sweep;

static void layer_norm_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    sweep *s = context;
    (void)thread;
    s->ops->layer_norm(s->a, s->b, s->c, s->number, s->width, s->y, begin, end);
}

void rk_layer_norm(const rk_ops *ops, const void *x, const void *weight, const void *bias, double eps,
                   ptrdiff_t tokens, ptrdiff_t width, void *y, int threads)
{
    sweep s = {.ops = ops, .a = x, .b = weight, .c = bias, .number = eps, .width = width, .y = y};
    rk_parallel(tokens, at_least_one(PIECE_ELEMENTS / width), threads, layer_norm_piece, &s);
}

static void token_shift_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    sweep *s = context;
    (void)thread;
    s->ops->token_shift(s->a, s->b, s->c, s->width, s->y, begin, end);
}

void rk_token_shift(const rk_ops *ops, const void *x, const void *last, const void *mix, ptrdiff_t tokens,
                    ptrdiff_t width, void *y, int threads)
{
    sweep s = {.ops = ops, .a = x, .b = last, .c = mix, .width = width, .y = y};
    rk_parallel(tokens, at_least_one(PIECE_ELEMENTS / width), threads, token_shift_piece, &s);
}

static void wkv4_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    sweep *s = context;
    (void)thread;
    s->ops->wkv4(s->a, s->b, s->c, s->d, s->e, s->tokens, s->width, s->s0, s->s1, s->s2, s->y, begin, end);
}

void rk_wkv4(const rk_ops *ops, const void *w, const void *u, const void *k, const void *v, const void *r,
             ptrdiff_t tokens, ptrdiff_t width, void *aa, void *bb, void *pp, void *y, int threads)
{
    sweep s = {.ops = ops, .a = w, .b = u, .c = k, .d = v, .e = r, .tokens = tokens, .width = width,
               .s0 = aa, .s1 = bb, .s2 = pp, .y = y};
    /* Whole cache lines of channels, so that no two threads write into one. */
    ptrdiff_t grain = round_up(at_least_one(PIECE_EXPS / at_least_one(tokens)), 64);
    rk_parallel(width, grain, threads, wkv4_piece, &s);
}

static void relu_squared_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    sweep *s = context;
    (void)thread;
    s->ops->relu_squared(s->y, begin, end);
}

void rk_relu_squared(const rk_ops *ops, void *x, ptrdiff_t n, int threads)
{
    sweep s = {.ops = ops, .y = x};
    rk_parallel(n, PIECE_ELEMENTS, threads, relu_squared_piece, &s);
}

static void add_gated_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    sweep *s = context;
    (void)thread;
    s->ops->add_gated(s->y, s->a, s->b, begin, end);
}

void rk_add_gated(const rk_ops *ops, void *y, const void *gate, const void *x, ptrdiff_t n, int threads)
{
    sweep s = {.ops = ops, .a = gate, .b = x, .y = y};
    rk_parallel(n, PIECE_ELEMENTS, threads, add_gated_piece, &s);
}

static void add_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    sweep *s = context;
    (void)thread;
    s->ops->add(s->y, s->a, begin, end);
}

void rk_add(const rk_ops *ops, void *y, const void *x, ptrdiff_t n, int threads)
{
    sweep s = {.ops = ops, .a = x, .y = y};
    rk_parallel(n, PIECE_ELEMENTS, threads, add_piece, &s);
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
