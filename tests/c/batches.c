/* A batch of sequences, each of these sequences alone, and its tokens one by one give the same bits: all types of
 * matrices with everything that precedes a product, states prefetched, and the WKV of every version, for each
 * instruction set that this CPU supports. Together with families.c, which compares numbers, it shows that all three ways
 * compute the same model. Exits with 1 at the first difference. */
#include "samples.h"
#include "wkv/versions.h"
#include "wkv/wkv4.h"
#include "wkv/wkv6.h"
#include "wkv/wkv7.h"

enum { SEQUENCES = 5, TOKENS = 40, THREADS = 2, ROWS = 45, COLS = 129, HEADS = 2, MOST_THREADS = 7 };

static const ptrdiff_t lengths[SEQUENCES] = {1, 4, 2, 22, 11};
/* Of heads: with rows and columns that are left over, what the kernels are compiled for, and more than one group of
 * rows. */
static const ptrdiff_t sizes[] = {7, 20, 64, 75};
static const char *const first_names[] = {"as it is", "shifted", "lerped", "relu squared", "tanh", "sigmoid", "scaled"};

/* The tokens of a run: a part of the batch, with sequences that begin at 0. */
typedef struct {
    ptrdiff_t first;
    rk_tokens tokens;
    rk_sequence sequences[SEQUENCES];
} part;

/* Sequences from..to of the batch, whose states, `bytes` bytes each, begin at `states`. */
static part part_of(int from, int to, char *states, size_t bytes)
{
    part p = {0};
    for (int i = 0; i < from; i++) p.first += lengths[i];
    for (int i = from; i < to; i++) {
        char *state = states + (size_t)i * bytes;
        p.sequences[i - from] = (rk_sequence){p.tokens.count, p.tokens.count + lengths[i], state, state, 0};
        p.tokens.count += lengths[i];
    }
    p.tokens.sequence_count = to - from;
    return p;
}

/* One token of the batch, whose sequence has this state. */
static part one_token(ptrdiff_t token, const char *read, char *write)
{
    part p = {.first = token, .tokens = {.count = 1, .sequence_count = 1}};
    p.sequences[0] = (rk_sequence){0, 1, read, write, 0};
    return p;
}

typedef struct {
    const float *x, *before, *mix, *more;
} inputs;

static void multiply(const rk_ops *ops, const sample *s, int first, const inputs *in, part p, float *y)
{
    const ptrdiff_t at = p.first * COLS;
    const rk_product product = {.m = &s->m, .x = in->x + at, .stride = COLS, .first = first, .mix = in->mix,
                                .more = in->more + at, .y = y + p.first * ROWS, .then = RK_NOTHING};
    void *scratch = allocate(rk_matmul_scratch(ops, &s->m, p.tokens.count, THREADS));
    /* Exactly as many as there are, and a field that neither begins nor ends with a cache line. */
    rk_sequence *sequences = allocate(p.tokens.sequence_count * sizeof *sequences);
    memcpy(sequences, p.sequences, p.tokens.sequence_count * sizeof *sequences);
    p.tokens.sequences = sequences;
    rk_matmul_ahead(ops, &product, 1, &p.tokens, 8, (ptrdiff_t)(COLS * sizeof(float)) - 12, scratch, THREADS);
    free(sequences), free(scratch);
}

/* Whether activations of so many tokens are rounded to bf16. */
static int rounds(const rk_table *table, const sample *s, ptrdiff_t tokens)
{
    const rk_ops *ops = table->f32.bf16 != NULL ? table->f32.bf16 : &table->f32;
    return s->m.rounded && s->m.dtype == RK_BF16 && tokens >= ops->few_tokens;
}

static void compare(const rk_table *table, const char *what, ptrdiff_t token, const float *got, const float *expected,
                    ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++)
        if (memcmp(got + i, expected + i, sizeof *got)) {
            printf("token %td: ", token);
            fail(table->name, what, i, expected[i], got[i]);
        }
}

static void check_products(const rk_table *table, int dtype, int transposed, int rounded)
{
    sample s = make_sample(dtype, ROWS, COLS, transposed, rounded);
    const inputs in = {random_array(TOKENS * COLS), random_array(SEQUENCES * COLS), random_array(COLS),
                       random_array(TOKENS * COLS)};
    float *batch = allocate(TOKENS * ROWS * sizeof *batch), *other = allocate(TOKENS * ROWS * sizeof *other);
    const size_t bytes = COLS * sizeof(float);
    for (int first = RK_AS_IT_IS; first <= RK_RELU_SQUARED_SCALED; first++) {
        char what[80];
        snprintf(what, sizeof what, "%s%s%s, %s", type_names[dtype], transposed ? " transposed" : "",
                 rounded ? " rounding" : "", first_names[first]);
        multiply(&table->f32, &s, first, &in, part_of(0, SEQUENCES, (char *)in.before, bytes), batch);
        for (int i = 0; i < SEQUENCES; i++) {
            const part alone = part_of(i, i + 1, (char *)in.before, bytes);
            multiply(&table->f32, &s, first, &in, alone, other);
            const ptrdiff_t begin = alone.first, end = begin + alone.tokens.count;
            if (rounds(table, &s, TOKENS) == rounds(table, &s, end - begin))
                compare(table, what, begin, other + begin * ROWS, batch + begin * ROWS, (end - begin) * ROWS);
            for (ptrdiff_t t = begin; t < end; t++) {
                const float *before = t == begin ? in.before + i * COLS : in.x + (t - 1) * COLS;
                multiply(&table->f32, &s, first, &in, one_token(t, (const char *)before, NULL), other);
                if (rounds(table, &s, TOKENS) == rounds(table, &s, 1))
                    compare(table, what, t, other + t * ROWS, batch + t * ROWS, ROWS);
            }
        }
    }
    free((void *)in.x), free((void *)in.before), free((void *)in.mix), free((void *)in.more);
    free(s.weights), free(s.data), free(batch), free(other);
}

/* What the WKVs read: parameters, and activations of all tokens. */
enum { PARAMETERS = 6, ACTIVATIONS = 8 };

typedef struct {
    ptrdiff_t size, width; /* of a head, of all */
    float *parameters[PARAMETERS], *activations[ACTIVATIONS], *used, *bonus;
} mixes;

/* y: of the whole batch; NULL if only the states are computed. */
static void run_wkv(const rk_ops *ops, int version, const mixes *m, part p, float *y, int threads)
{
    const ptrdiff_t width = m->width;
    float *const *w = m->parameters, *x[ACTIVATIONS];
    y = y == NULL ? NULL : y + p.first * width;
    for (int i = 0; i < ACTIVATIONS; i++) x[i] = m->activations[i] + p.first * width;
    const rk_heads heads = {.count = HEADS, .size = m->size, .norm_weight = w[0], .norm_bias = w[1], .eps = 64e-5,
                            .y = y};
    void *scratch = version == RK_WKV4 ? NULL : allocate((size_t)threads * rk_heads_scratch(ops, version, m->size));
    p.tokens.sequences = p.sequences;
    if (version == RK_WKV4) {
        const rk_wkv4 own = {.channels = {width}, .w = w[0], .u = w[1], .k = x[0], .v = x[1],
                             .r = y == NULL ? NULL : x[2], .y = y, .aa = 0, .bb = width * sizeof *y,
                             .pp = 2 * width * sizeof *y};
        rk_run_channels(ops, version, &own.channels, &p.tokens, threads);
    } else if (version == RK_WKV6) {
        const rk_wkv6 own = {.heads = heads, .decay = w[2], .u = w[3], .r = x[0], .k = x[1], .v = x[2], .w = x[3], .g = x[4]};
        rk_run_heads(ops, version, &own.heads, &p.tokens, scratch, threads);
    } else {
        const rk_wkv7 own = {.heads = heads, .w0 = w[0], .a0 = w[1], .v0 = w[2], .k_k = w[3], .k_a = w[4], .r_k = w[5],
                             .r = y == NULL ? NULL : x[0], .w = x[1], .k = x[2], .a = x[3], .g = x[4],
                             .v_mix = x[5], .v = x[6], .v_used = m->used + p.first * width, .v_first = x[7],
                             .bonus = m->bonus + p.first * HEADS};
        rk_run_heads(ops, version, &own.heads, &p.tokens, scratch, threads);
    }
    free(scratch);
}

/* A sequence alone, by so many threads, which share the rows of a head if there are more of them than heads. */
static void check_wkv(const rk_table *table, int version, ptrdiff_t size, int threads)
{
    const ptrdiff_t width = HEADS * size, state_size = width * size;
    const size_t bytes = (size_t)state_size * sizeof(float);
    char what[48];
    snprintf(what, sizeof what, "WKV %d, heads of %td, %d threads", version, size, threads);
    mixes m = {.size = size, .width = width, .used = allocate(TOKENS * width * sizeof(float)),
               .bonus = allocate(TOKENS * HEADS * sizeof(float))};
    for (int i = 0; i < PARAMETERS; i++) m.parameters[i] = random_array(width);
    for (int i = 0; i < ACTIVATIONS; i++) m.activations[i] = random_array(TOKENS * width);
    float *start = random_array(SEQUENCES * state_size), *states[3], *y[3];
    for (int i = 0; i < SEQUENCES * state_size; i++) start[i] += 2; /* bb of WKV 4 is positive */
    for (int way = 0; way < 3; way++) {
        states[way] = memcpy(allocate(SEQUENCES * bytes), start, SEQUENCES * bytes);
        y[way] = allocate(TOKENS * width * sizeof(float));
    }
    run_wkv(&table->f32, version, &m, part_of(0, SEQUENCES, (char *)states[0], bytes), y[0], THREADS);
    for (int i = 0; i < SEQUENCES; i++) {
        const part alone = part_of(i, i + 1, (char *)states[1], bytes);
        char *state = (char *)states[2] + (size_t)i * bytes;
        run_wkv(&table->f32, version, &m, alone, y[1], threads);
        for (ptrdiff_t t = 0; t < lengths[i]; t++)
            run_wkv(&table->f32, version, &m, one_token(alone.first + t, state, state), y[2], 1);
    }
    for (int way = 1; way < 3; way++) {
        compare(table, what, -way, y[way], y[0], TOKENS * width);
        compare(table, what, -way, states[way], states[0], SEQUENCES * state_size);
    }
    memcpy(states[1], start, SEQUENCES * bytes); /* the same states without y */
    for (int i = 0; i < SEQUENCES; i++)
        run_wkv(&table->f32, version, &m, part_of(i, i + 1, (char *)states[1], bytes), NULL, threads);
    compare(table, what, -3, states[1], states[0], SEQUENCES * state_size);
    if (!memcmp(states[0], start, SEQUENCES * bytes)) fail(table->name, what, 0, 1, 0); /* the state has not changed */
    for (int i = 0; i < PARAMETERS; i++) free(m.parameters[i]);
    for (int i = 0; i < ACTIVATIONS; i++) free(m.activations[i]);
    for (int way = 0; way < 3; way++) free(states[way]), free(y[way]);
    free(m.used), free(m.bonus), free(start);
}

int main(void)
{
    const rk_table *table;
    for (int i = 0; (table = rk_available(i)) != NULL; i++) {
        for (int t = 0; t < TYPES; t++) {
            check_products(table, types[t], 0, 0);
            if (types[t] == RK_F32 || types[t] == RK_F16 || types[t] == RK_BF16) check_products(table, types[t], 1, 0);
        }
        check_products(table, RK_BF16, 0, 1);
        check_products(table, RK_BF16, 1, 1);
        for (int version = 0; version < RK_WKV_VERSIONS; version++)
            for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
                for (int threads = 1; threads <= MOST_THREADS; threads += 3) check_wkv(table, version, sizes[k], threads);
        printf("%s: batches, sequences and single tokens agree\n", table->name);
    }
    return 0;
}
