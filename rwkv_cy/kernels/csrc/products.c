/* Products of a layer, shared among threads: prepare the tokens, multiply, apply what follows. */
#include "codec/bf12.h"
#include "gemm/columns.h"
#include "pieces.h"
#include "codec/quant.h"

#define MOST_BYTES ((ptrdiff_t)64 << 10) /* of weights in a piece; bounds the wait for the last piece */
#define LEAST_BYTES ((ptrdiff_t)16 << 10)
#define LEAST_WORK ((ptrdiff_t)1000000) /* of a piece, in multiply-adds */
#define PIECES_A_THREAD 32
/* Bytes of states that one operation prefetches. Two prefetch what a WKV reads: together, half of a usual L3 cache. */
#define MOST_STATES ((ptrdiff_t)8 << 20)
#define FEW_TOKENS 24 /* below this, `follow` runs right after each piece, not as one more shared operation */
#define LINE_ROWS 16 /* whole cache lines of the result */
#define WHOLE_LINES 8 /* panels; their rows fill whole cache lines of the result and of a transposed matrix */

/* How a product is computed: by rows or columns of the matrix in its stored layout, by groups of quantized rows, or,
 * for many tokens, by packed panels. */
typedef enum { BY_ROWS, BY_COLUMNS, BY_GROUPS, BY_PANELS } way;

typedef struct shared shared;

typedef struct {
    const rk_product *spec;
    const rk_ops *ops;      /* kernels for the product */
    const rk_ops *plain;    /* kernels for everything else */
    const rk_tokens *all;
    way way;
    char *prepared;         /* tokens in the form that `way` needs */
    char *scratch;          /* `stride` bytes per thread */
    size_t stride;
    const shared *among;    /* the operation that it is a part of */
    ptrdiff_t first_piece;  /* in that operation */
} product;

/* [0, units) split into pieces of `grain`; the last may be shorter. */
typedef struct {
    ptrdiff_t units, grain, pieces;
} cut;

/* Several products that the threads share as one operation. */
struct shared {
    product parts[RK_MOST_PRODUCTS];
    cut cuts[RK_MOST_PRODUCTS];
    int count;
    void (*body)(const product *p, ptrdiff_t begin, ptrdiff_t end, int thread);
    ptrdiff_t pieces, threads;
    /* Byte offset and size of the field of each state that the groups of quantized matrices prefetch, and cache lines of
     * that field of all states. */
    size_t field;
    ptrdiff_t field_bytes, field_lines;
};

static cut cut_up(ptrdiff_t units, ptrdiff_t grain) { return (cut){units, grain, (units + grain - 1) / grain}; }

/* Pieces begin..end, numbered across the products in order. */
static void shared_pieces(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const shared *s = context;
    for (int i = 0; i < s->count && begin < end; i++) {
        const cut *c = &s->cuts[i];
        const ptrdiff_t last = at_most(end, c->pieces);
        if (begin < last) s->body(&s->parts[i], begin * c->grain, at_most(last * c->grain, c->units), thread);
        begin = begin > c->pieces ? begin - c->pieces : 0;
        end -= c->pieces;
    }
}

static void share(shared *s, void (*body)(const product *, ptrdiff_t, ptrdiff_t, int), int threads)
{
    s->pieces = 0;
    for (int i = 0; i < s->count; i++) {
        s->parts[i].first_piece = s->pieces;
        s->pieces += s->cuts[i].pieces;
    }
    s->body = body;
    s->threads = at_least_one(at_most(threads, s->pieces));
    rk_parallel(s->pieces, 1, threads, shared_pieces, s);
}

static int is_quantized(const rk_matrix *m) { return rk_q_quantized(m->dtype); }

/* Kernels for products of this many tokens with m. */
static const rk_ops *ops_for(const rk_ops *ops, const rk_matrix *m, ptrdiff_t tokens)
{
    const rk_ops *special = is_quantized(m) ? ops->tiles : m->rounded && m->dtype == RK_BF16 ? ops->bf16 : NULL;
    return special != NULL && tokens >= special->few_tokens ? special : ops;
}

/* Whether activations are rounded to bf16: only if there are enough tokens for `own`, the kernels of the product, to pack
 * them. */
static int is_rounded(const rk_ops *own, const rk_matrix *m, ptrdiff_t tokens)
{
    return m->rounded && m->dtype == RK_BF16 && tokens >= own->few_tokens;
}

static way way_for(const rk_ops *ops, const rk_matrix *m, ptrdiff_t tokens)
{
    if (is_quantized(m)) return BY_GROUPS;
    if (tokens >= ops->few_tokens) return BY_PANELS;
    return m->transposed ? BY_COLUMNS : BY_ROWS;
}

static ptrdiff_t padded_cols(const rk_ops *ops, ptrdiff_t cols) { return round_up(cols, ops->lanes); }

static size_t bytes_of(ptrdiff_t elements, size_t size, ptrdiff_t unit)
{
    return (size_t)round_up(elements * (ptrdiff_t)size, unit);
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* Bytes of a group of packed tokens. */
static size_t group_bytes(const rk_ops *ops, ptrdiff_t cols)
{
    return (size_t)(padded_cols(ops, cols) * ops->panel_tokens) * ops->itemsize;
}

static ptrdiff_t token_groups(const rk_ops *ops, ptrdiff_t tokens)
{
    return (tokens + ops->panel_tokens - 1) / ops->panel_tokens;
}

static size_t prepared_bytes(const rk_ops *ops, const rk_matrix *m, ptrdiff_t tokens)
{
    switch (way_for(ops, m, tokens)) {
    case BY_GROUPS:
        return bytes_of(round_up(tokens, ops->whole_tokens) * rk_q_blocks(m->dtype, m->cols),
                        (size_t)ops->packed_bytes(m->dtype), 64);
    case BY_PANELS: return bytes_of(token_groups(ops, tokens), group_bytes(ops, m->cols), 4096);
    default: return bytes_of(tokens * m->cols, ops->itemsize, 64);
    }
}

/* Bytes of one thread's scratch: first one token in preparation; later, for BY_PANELS, a block of packed panels and its
 * saved accumulators: those of all tokens if the columns take several runs, of one group of tokens if they take several
 * steps of one run, none if they take one step. */
static size_t thread_bytes(const rk_ops *ops, const rk_matrix *m, ptrdiff_t tokens)
{
    const size_t token = bytes_of(m->cols, ops->sumsize + ops->itemsize, 4096);
    if (ops->scratch != NULL) return larger(token, ops->scratch(m, tokens));
    if (way_for(ops, m, tokens) != BY_PANELS) return token;
    ptrdiff_t padded = padded_cols(ops, m->cols), run = rk_panel_run(padded, ops->itemsize);
    ptrdiff_t waiting = run < padded                                  ? round_up(tokens, ops->panel_tokens)
                        : rk_panel_step(padded, ops->itemsize) < run ? ops->panel_tokens
                                                                      : 0;
    ptrdiff_t elements = (run + waiting * ops->lanes) * ops->panel_rows * rk_block_panels(padded, ops->itemsize);
    return larger(token, bytes_of(elements, ops->itemsize, 4096));
}

size_t rk_matmul_scratch(const rk_ops *ops, const rk_matrix *m, ptrdiff_t tokens, int threads)
{
    ops = ops_for(ops, m, tokens);
    size_t columns = way_for(ops, m, tokens) == BY_COLUMNS ? rk_columns_scratch(ops, m, tokens) : 0;
    return prepared_bytes(ops, m, tokens) + columns + (size_t)threads * thread_bytes(ops, m, tokens);
}

/* What is added to the mix for token t; NULL if nothing is. */
static const void *more_of(const product *p, ptrdiff_t t)
{
    const rk_product *spec = p->spec;
    return spec->more == NULL ? NULL : (const char *)spec->more + (size_t)(t * spec->m->cols) * p->ops->sumsize;
}

/* Token t after `first`, before rounding: in place, or in `buffer`. */
static const void *token_of(const product *p, ptrdiff_t t, void *buffer)
{
    const rk_product *spec = p->spec;
    const ptrdiff_t width = spec->m->cols;
    const size_t row = (size_t)spec->stride * p->ops->sumsize;
    const char *x = (const char *)spec->x + (size_t)t * row;
    if (spec->first == RK_AS_IT_IS) return x;
    if (spec->first == RK_SHIFTED || spec->first == RK_LERPED) {
        const rk_sequence *s = rk_sequence_of(p->all, t);
        const char *before = t == s->begin ? s->read + spec->before : x - row;
        if (spec->first == RK_SHIFTED)
            p->plain->token_shift(x, before, spec->mix, width, buffer);
        else
            p->plain->token_lerp(x, before, spec->mix, more_of(p, t), width, buffer);
    } else if (spec->first == RK_RELU_SQUARED) {
        p->plain->relu_squared(x, buffer, width);
    } else if (spec->first == RK_RELU_SQUARED_SCALED) {
        p->plain->relu_squared_scaled(x, spec->mix, more_of(p, t), buffer, width);
    } else if (spec->first == RK_TANH) {
        p->plain->tanh(x, buffer, width);
    } else {
        p->plain->sigmoid(x, buffer, width);
    }
    return buffer;
}

static char *own_scratch(const product *p, int thread) { return p->scratch + (size_t)thread * p->stride; }

/* Prepare tokens begin..end; numbers past the last token stand for zeros, which fill its group. */
static void prepare(const product *p, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const rk_matrix *m = p->spec->m;
    const ptrdiff_t group = p->ops->panel_tokens;
    char *buffer = own_scratch(p, thread);
    char *rounded = buffer + (size_t)m->cols * p->ops->sumsize;
    for (ptrdiff_t t = begin; t < end; t++) {
        const void *x = NULL;
        if (p->way == BY_GROUPS || p->way == BY_PANELS) x = t < p->all->count ? token_of(p, t, buffer) : NULL;
        if (p->way == BY_GROUPS) {
            p->ops->quantize_token(x, m->dtype, m->cols, p->all->count, t, p->prepared);
        } else if (p->way == BY_PANELS) {
            if (is_rounded(p->ops, m, p->all->count) && x != NULL) {
                p->ops->round(x, rounded, m->cols);
                x = rounded;
            }
            p->ops->pack_token(x, m->cols, t % group, p->prepared + (size_t)(t / group) * group_bytes(p->ops, m->cols));
        } else {
            char *to = p->prepared + (size_t)(t * m->cols) * p->ops->itemsize;
            x = token_of(p, t, to);
            if (x != to) memcpy(to, x, (size_t)m->cols * p->ops->itemsize);
        }
    }
}

/* Copy the inputs of all tokens, in float, to the matrix's record of them. */
static void record_inputs(const product *p)
{
    rk_inputs *inputs = p->spec->m->inputs;
    const ptrdiff_t cols = p->spec->m->cols;
    for (ptrdiff_t t = 0; t < p->all->count && inputs->count < inputs->capacity; t++) {
        const void *x = token_of(p, t, p->scratch);
        float *row = inputs->rows + cols * inputs->count++;
        for (ptrdiff_t k = 0; k < cols; k++)
            row[k] = p->ops->sumsize == sizeof(double) ? (float)((const double *)x)[k] : ((const float *)x)[k];
    }
}

/* Whether the tokens can be used without preparation. */
static int in_place(const product *p)
{
    const rk_product *spec = p->spec;
    return (p->way == BY_ROWS || p->way == BY_COLUMNS) && spec->first == RK_AS_IT_IS && spec->stride == spec->m->cols;
}

static const void *tokens_as_rows(const product *p) { return in_place(p) ? p->spec->x : p->prepared; }

/* Tokens are prepared in multiples of this. */
static ptrdiff_t tokens_together(const product *p)
{
    return p->way == BY_PANELS ? p->ops->panel_tokens : p->way == BY_GROUPS ? p->ops->whole_tokens : 1;
}

static cut cut_tokens(const product *p)
{
    const ptrdiff_t together = tokens_together(p);
    const ptrdiff_t grain = round_up(at_least_one(PIECE_ELEMENTS / at_least_one(p->spec->m->cols)), together);
    return cut_up(in_place(p) ? 0 : round_up(p->all->count, together), grain);
}

/* Apply `then` to elements begin..end of the result. */
static void follow(const product *p, ptrdiff_t begin, ptrdiff_t end)
{
    const rk_product *spec = p->spec;
    switch (spec->then) {
    case RK_NOTHING: break;
    case RK_ADD: p->plain->add(spec->into, spec->y, begin, end); break;
    case RK_ADD_GATED: p->plain->add_gated(spec->into, spec->gate, spec->y, begin, end); break;
    case RK_ADD_SCALED: p->plain->add_scaled(spec->into, spec->gate, spec->y, begin, end); break;
    }
}

static void follow_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    (void)thread;
    follow(context, begin, end);
}

static ptrdiff_t unit_rows(const product *p)
{
    return p->way == BY_PANELS ? p->ops->panel_rows : p->way == BY_GROUPS ? RK_Q_ROWS : 1;
}

/* Whether `follow` runs on each piece's rows as states as they are computed. */
static int follows_at_once(const product *p)
{
    return p->all->count > 1 && p->all->count < FEW_TOKENS && p->way != BY_COLUMNS;
}

/* Quantized groups in the pieces of an operation before this one. */
static ptrdiff_t groups_before(const shared *s, ptrdiff_t piece)
{
    ptrdiff_t groups = 0;
    for (int i = 0; i < s->count; i++) {
        const cut *c = &s->cuts[i];
        const ptrdiff_t pieces = at_most(piece - s->parts[i].first_piece, c->pieces);
        if (pieces > 0 && s->parts[i].way == BY_GROUPS) groups += at_most(pieces * c->grain, c->units);
    }
    return groups;
}

/* The cache line of the states that group g of a product prefetches first. The threads begin with equal shares of the
 * pieces, and later with equal shares of the states (rk_run_heads): the groups of a share prefetch what the same thread
 * reads, which may have a cache of its own. */
static ptrdiff_t first_line(const product *p, ptrdiff_t g)
{
    const shared *s = p->among;
    const cut *c = &s->cuts[p - s->parts];
    const ptrdiff_t piece = p->first_piece + (g + c->grain - 1) / c->grain;
    if (piece >= s->pieces) return s->field_lines;
    const ptrdiff_t owner = ((piece + 1) * s->threads - 1) / s->pieces;
    const ptrdiff_t begin = groups_before(s, s->pieces * owner / s->threads);
    const ptrdiff_t end = groups_before(s, s->pieces * (owner + 1) / s->threads);
    const ptrdiff_t first = s->field_lines * owner / s->threads, last = s->field_lines * (owner + 1) / s->threads;
    return first + (last - first) * (groups_before(s, piece) - begin) / at_least_one(end - begin);
}

/* What groups begin..end prefetch. */
static rk_states_ahead states_of(const product *p, ptrdiff_t begin, ptrdiff_t end)
{
    const shared *s = p->among;
    if (s->field_lines == 0) return (rk_states_ahead){NULL, NULL, 0, 0, 0};
    const ptrdiff_t from = 64 * first_line(p, begin), to = 64 * first_line(p, end);
    if (from == to) return (rk_states_ahead){NULL, NULL, 0, 0, 0};
    const rk_sequence *first = p->all->sequences + from / s->field_bytes;
    return (rk_states_ahead){first, first->read + s->field + from % s->field_bytes, s->field, s->field_bytes, to - from};
}

/* Units begin..end of a product: rows, groups or panels. */
static void multiply(const product *p, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const rk_matrix *m = p->spec->m;
    const ptrdiff_t tokens = p->all->count;
    void *y = p->spec->y;
    if (p->way == BY_PANELS) {
        p->ops->panels(m, p->prepared, tokens, y, m->rows, begin, end, own_scratch(p, thread));
    } else if (p->way == BY_GROUPS) {
        rk_states_ahead states = states_of(p, begin, end);
        p->ops->groups(m, p->prepared, tokens, y, m->rows, begin, end, own_scratch(p, thread), &states);
    } else {
        p->ops->rows(m, tokens_as_rows(p), tokens, y, m->rows, begin, end);
    }
    if (!follows_at_once(p)) return;
    const ptrdiff_t first = begin * unit_rows(p), last = at_most(end * unit_rows(p), m->rows);
    for (ptrdiff_t t = 0; t < tokens; t++) follow(p, t * m->rows + first, t * m->rows + last);
}

static ptrdiff_t row_bytes(const rk_matrix *m)
{
    if (m->dtype == RK_BF12) return rk_bf12_group(m->cols) / RK_BF12_ROWS;
    return m->cols * (m->dtype == RK_F64 ? 8 : m->dtype == RK_F32 ? 4 : 2);
}

/* The number of units (rows, groups or panels), and the cost of one: bytes to read for few tokens, multiply-adds for
 * many. */
static ptrdiff_t units_of(const product *p, ptrdiff_t *cost)
{
    const rk_matrix *m = p->spec->m;
    const ptrdiff_t tokens = p->all->count;
    const ptrdiff_t rows = unit_rows(p);
    if (p->way == BY_PANELS) {
        *cost = m->cols * tokens * rows;
    } else if (p->way == BY_GROUPS) {
        *cost = rk_q_blocks(m->dtype, m->cols) * rk_q_bytes(m->dtype) * (tokens < 16 ? 1 : tokens / 8);
    } else {
        *cost = row_bytes(m) * (tokens < 16 ? 1 : tokens / 8);
    }
    *cost = at_least_one(*cost);
    return (m->rows + rows - 1) / rows;
}

/* Split a product whose units cost `cost`; `total` is the cost of all products of the operation. Pieces are small,
 * because a thread takes long runs of them at first and short ones at the end. */
static cut cut_product(const product *p, ptrdiff_t units, ptrdiff_t cost, ptrdiff_t total, int threads)
{
    if (p->way == BY_PANELS) {
        const ptrdiff_t together = p->ops->panel_rows % LINE_ROWS == 0 ? 1 : WHOLE_LINES;
        return cut_up(units, round_up(at_least_one(LEAST_WORK / cost), together));
    }
    const ptrdiff_t share = total / (PIECES_A_THREAD * (ptrdiff_t)threads);
    const ptrdiff_t bytes = share < LEAST_BYTES ? LEAST_BYTES : at_most(share, MOST_BYTES);
    /* `rows` processes four rows together. */
    return cut_up(units, round_up(at_least_one(bytes / cost), p->way == BY_GROUPS ? p->ops->wide_groups : 4));
}

/* Prepare and multiply `count` products in two shared operations. */
static void run(const rk_ops *ops, const rk_product *const *products, int count, const rk_tokens *all, size_t field,
                ptrdiff_t bytes, char *scratch, int threads)
{
    shared s = {.count = count, .field = field, .field_bytes = bytes};
    s.field_lines = at_most(all->sequence_count * bytes, MOST_STATES) / 64;
    ptrdiff_t units[RK_MOST_PRODUCTS] = {0}, costs[RK_MOST_PRODUCTS] = {0}, total = 0, elements = 0;
    char *columns[RK_MOST_PRODUCTS];
    size_t stride = 0;
    for (int i = 0; i < count; i++) {
        const rk_matrix *m = products[i]->m;
        const rk_ops *own = ops_for(ops, m, all->count);
        product *p = &s.parts[i];
        *p = (product){products[i], own, ops, all, way_for(own, m, all->count), scratch, NULL, 0, &s, 0};
        scratch += prepared_bytes(own, m, all->count);
        columns[i] = scratch;
        scratch += p->way == BY_COLUMNS ? rk_columns_scratch(own, m, all->count) : 0;
        stride = larger(stride, thread_bytes(own, m, all->count));
        s.cuts[i] = cut_tokens(p);
        elements += s.cuts[i].units ? all->count * m->cols : 0;
        if (p->way == BY_COLUMNS) continue;
        units[i] = units_of(p, &costs[i]);
        total += units[i] * costs[i];
    }
    for (int i = 0; i < count; i++) s.parts[i].scratch = scratch, s.parts[i].stride = stride;
    share(&s, prepare, elements > PIECE_ELEMENTS ? threads : 1);
    for (int i = 0; i < count; i++)
        if (products[i]->m->inputs != NULL) record_inputs(&s.parts[i]);
    for (int i = 0; i < count; i++) {
        const product *p = &s.parts[i];
        if (p->way == BY_COLUMNS) {
            rk_columns(p->ops, p->spec->m, tokens_as_rows(p), all->count, p->spec->y, columns[i], threads);
            s.cuts[i] = cut_up(0, 1);
        } else {
            s.cuts[i] = cut_product(p, units[i], costs[i], total, threads);
        }
    }
    share(&s, multiply, threads);
    for (int i = 0; i < count; i++)
        if (!follows_at_once(&s.parts[i]))
            rk_parallel(products[i]->then == RK_NOTHING ? 0 : all->count * products[i]->m->rows, PIECE_ELEMENTS,
                        threads, follow_piece, &s.parts[i]);
}

void rk_matmul_ahead(const rk_ops *ops, const rk_product *products, int count, const rk_tokens *all, size_t field,
                     ptrdiff_t bytes, void *scratch, int threads)
{
    const rk_product *together[RK_MOST_PRODUCTS];
    int waiting = 0;
    for (int i = 0; i < count; i++) {
        const rk_product *one = &products[i];
        /* Many packed tokens fill the caches, so they are used before the next product packs its own. */
        if (way_for(ops, one->m, all->count) == BY_PANELS)
            run(ops, &one, 1, all, 0, 0, scratch, threads);
        else
            together[waiting++] = one;
        if (waiting == RK_MOST_PRODUCTS) {
            run(ops, together, waiting, all, field, bytes, scratch, threads);
            waiting = 0;
        }
    }
    if (waiting) run(ops, together, waiting, all, field, bytes, scratch, threads);
}

void rk_matmul(const rk_ops *ops, const rk_product *products, int count, const rk_tokens *all, void *scratch,
               int threads)
{
    rk_matmul_ahead(ops, products, count, all, 0, 0, scratch, threads);
}
