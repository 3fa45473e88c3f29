/* Every kernel family that this CPU supports, against plain loops in double and against the portable one: all types of
 * matrices, one token, several and many, both orientations, and what a layer does besides its products. It prints a line
 * of all instruction sets, one for each, and exits with 1 at the first difference. It needs no Python, so that it can run
 * for another CPU under an emulator; the argument "quick" leaves out the largest matrices, for a slow one. */
#include "samples.h"
#include "nuclei.h"
#include "wkv/versions.h"
#include "wkv/wkv4.h"
#include "wkv/wkv6.h"
#include "wkv/wkv7.h"

enum { MOST_TOKENS = 40 };

static const ptrdiff_t token_counts[] = {1, 2, 3, 4, 5, 9, 14, 15, 16, 33, MOST_TOKENS};
static const ptrdiff_t shapes[][2] = {{1, 1}, {7, 33}, {16, 64}, {45, 129}, {99, 70}, {18, 1100}, {50, 3300}};
static size_t shape_count = sizeof shapes / sizeof *shapes;

/* Numbers `a` and `b` differ by no more than `error`, or are both NaN. */
static int near_to(double a, double b, double error) { return (a != a && b != b) || (a - b <= error && b - a <= error); }

static void compare(const char *level, const char *what, const float *got, const float *expected, ptrdiff_t n,
                    double relative)
{
    double largest = 0;
    for (ptrdiff_t i = 0; i < n; i++)
        if (expected[i] > largest || -expected[i] > largest) largest = expected[i] < 0 ? -expected[i] : expected[i];
    for (ptrdiff_t i = 0; i < n; i++)
        if (!near_to(got[i], expected[i], relative * largest)) fail(level, what, i, expected[i], got[i]);
}

#if defined(RK_MODELS)
/* Families for other CPUs, on instructions in plain C (model/). */
void rk_quantized_model(rk_table *table), rk_int8_model(rk_table *table), rk_bf16_model(rk_table *table);
static rk_table model;
#endif

/* The tables of this CPU, best first. */
enum { MOST_TABLES = 16 };
static const rk_table *tables[MOST_TABLES];
static int table_count = 0;

static void find_tables(void)
{
    while (rk_available(table_count) != NULL) tables[table_count] = rk_available(table_count), table_count++;
#if defined(RK_MODELS)
    /* After the best one of this CPU, whose other families it has. */
    model = *tables[0];
    model.name = "model";
    rk_quantized_model(&model), rk_int8_model(&model), rk_bf16_model(&model);
    for (int i = table_count++; i > 1; i--) tables[i] = tables[i - 1];
    tables[1] = &model;
#endif
    if (table_count >= MOST_TABLES) exit(2);
}

/* y = m x by one table, and the same by loops in double; `x` is what is multiplied. */
static void product(const rk_ops *ops, const sample *s, const float *x, ptrdiff_t tokens, int threads, float *y)
{
    const rk_product p = {.m = &s->m, .x = x, .stride = s->m.cols, .first = RK_AS_IT_IS, .y = y, .then = RK_NOTHING};
    const rk_tokens all = {tokens, NULL, 0};
    void *scratch = allocate(rk_matmul_scratch(ops, &s->m, tokens, threads));
    rk_matmul(ops, &p, 1, &all, scratch, threads);
    free(scratch);
}

/* The results of other tables: of the portable one, and of one that rounds as `table` does. */
typedef struct {
    float *portable, *same;
} others;

static void check_product(const rk_table *table, const sample *s, const float *x, const float *single, others expected,
                          ptrdiff_t tokens)
{
    const ptrdiff_t rows = s->m.rows, cols = s->m.cols;
    const int quantized = rk_q_quantized(s->m.dtype);
    const rk_ops *rounding = table->f32.bf16 != NULL ? table->f32.bf16 : &table->f32;
    const int rounds = s->m.rounded && tokens >= rounding->few_tokens;
    char what[80];
    snprintf(what, sizeof what, "%s%s%s %tdx%td, %td tokens", type_names[s->m.dtype],
             s->m.transposed ? " transposed" : "", s->m.rounded ? " rounding" : "", rows, cols, tokens);
    float *y = allocate((size_t)(tokens * rows) * sizeof(float));
    product(&table->f32, s, x, tokens, 1, y);
    for (ptrdiff_t t = 0; t < tokens; t++) {
        for (ptrdiff_t r = 0; r < rows; r++) {
            double sum = 0, magnitude = 0;
            for (ptrdiff_t k = 0; k < cols; k++) {
                const float value = x[t * cols + k];
                const double xk = rounds ? rk_bf16_to_f32(rk_f32_to_bf16(value)) : value;
                const double term = (double)s->weights[r * cols + k] * xk * s->m.scale;
                sum += term, magnitude += term < 0 ? -term : term;
            }
            /* Activations of quantized matrices have 8 bits. */
            const ptrdiff_t at = t * rows + r;
            if (!near_to(y[at], sum, magnitude * (quantized ? 0.01 : 1e-6))) fail(table->name, what, at, sum, y[at]);
            if (quantized && !near_to(y[at], expected.portable[at], magnitude * 1e-6))
                fail(table->name, what, at, expected.portable[at], y[at]);
            if (quantized && y[at] != expected.same[at]) fail(table->name, what, at, expected.same[at], y[at]);
        }
    }
    if (!rounds && memcmp(y, single, (size_t)(tokens * rows) * sizeof(float)))
        fail(table->name, what, -1, 0, 1); /* one token and many give the same bits */
    float *shared = allocate((size_t)(tokens * rows) * sizeof(float));
    product(&table->f32, s, x, tokens, 3, shared);
    if (memcmp(y, shared, (size_t)(tokens * rows) * sizeof(float))) fail(table->name, what, -1, 1, 3); /* as do threads */
    free(y), free(shared);
}

static void check_products(const rk_table *table, const rk_table *portable, int dtype, int transposed, int rounded)
{
    /* Multiply and add are rounded separately in the portable kernels only. */
    const rk_table *same = table == portable ? portable : tables[0];
    for (size_t i = 0; i < shape_count; i++) {
        const ptrdiff_t rows = shapes[i][0], cols = shapes[i][1];
        sample s = make_sample(dtype, rows, cols, transposed, rounded);
        float *x = random_array(MOST_TOKENS * cols);
        float *single = allocate(MOST_TOKENS * (size_t)rows * sizeof(float));
        others expected = {allocate(MOST_TOKENS * (size_t)rows * sizeof(float)),
                           allocate(MOST_TOKENS * (size_t)rows * sizeof(float))};
        for (ptrdiff_t k = 0; k < MOST_TOKENS * cols; k += 3) x[k] = 0;
        for (ptrdiff_t t = 0; t < MOST_TOKENS; t++) product(&table->f32, &s, x + t * cols, 1, 1, single + t * rows);
        product(&portable->f32, &s, x, MOST_TOKENS, 1, expected.portable);
        product(&same->f32, &s, x, MOST_TOKENS, 1, expected.same);
        for (size_t c = 0; c < sizeof token_counts / sizeof *token_counts; c++)
            check_product(table, &s, x, single, expected, token_counts[c]);
        free(s.weights), free(s.data), free(x), free(single);
        free(expected.portable), free(expected.same);
    }
}

enum { TOKENS = 5, HEADS = 3, SIZE = 20, WIDTH = HEADS * SIZE, STATE = HEADS * SIZE * SIZE };

/* What a layer does besides its products; everything that it computes goes to `out`. */
static ptrdiff_t run_layer(const rk_ops *ops, const float *in, float *out)
{
    const float *x = in, *weight = in + TOKENS * WIDTH, *bias = weight + WIDTH, *mix = bias + WIDTH;
    float *y = out;
    rk_layer_norm(ops, x, weight, bias, 1e-5, TOKENS, WIDTH, y, 1), y += TOKENS * WIDTH;
    ops->token_shift(x, x + WIDTH, mix, WIDTH, y), y += WIDTH;
    ops->token_lerp(x, x + WIDTH, mix, NULL, WIDTH, y), y += WIDTH;
    ops->token_lerp(x, x + WIDTH, mix, weight, WIDTH, y), y += WIDTH;
    ops->tanh(x, y, TOKENS * WIDTH), y += TOKENS * WIDTH;
    ops->sigmoid(x, y, TOKENS * WIDTH), y += TOKENS * WIDTH;
    ops->relu_squared(x, y, TOKENS * WIDTH), y += TOKENS * WIDTH;
    memcpy(y, x, WIDTH * sizeof *y), ops->add_gated(y, mix, weight, 0, WIDTH), y += WIDTH;
    memcpy(y, x, WIDTH * sizeof *y), ops->add(y, mix, 1, WIDTH - 1), y += WIDTH;
    memcpy(y, x, WIDTH * sizeof *y), ops->add_scaled(y, mix, weight, 1, WIDTH - 1), y += WIDTH;
    ops->relu_squared_scaled(x, x + WIDTH, mix, y, WIDTH), y += WIDTH;
    rk_token_matrices(ops, x, x, TOKENS, 7, y, 1), y += TOKENS * 7;
    memcpy(y, x, WIDTH * sizeof *y), ops->multiply(y, 0.25, 2, WIDTH), y += WIDTH;
    *y++ = (float)ops->all_finite(x, WIDTH);
    y[0] = INFINITY, y[1] = 0, y[2] = (float)ops->all_finite(y, 2), y[0] = 0, y += 3;

    rk_sequence sequence = {0, TOKENS, NULL, NULL};
    rk_tokens all = {TOKENS, &sequence, 1};
    sequence.read = sequence.write = (char *)y;
    memcpy(y, mix, 2 * WIDTH * sizeof *y); /* aa, bb, pp */
    for (int i = 0; i < WIDTH; i++) y[WIDTH + i] += 2;
    y += 3 * WIDTH;
    const rk_wkv4 p4 = {.channels = {WIDTH}, .w = weight, .u = bias, .k = x, .v = x + WIDTH, .r = x, .y = y, .aa = 0,
                        .bb = WIDTH * sizeof *y, .pp = 2 * WIDTH * sizeof *y};
    rk_tokens four = {TOKENS - 1, &sequence, 1};
    sequence.end = TOKENS - 1;
    rk_run_channels(ops, RK_WKV4, &p4.channels, &four, 1), y += (TOKENS - 1) * WIDTH;

    sequence.end = TOKENS;
    const rk_heads heads = {.count = HEADS, .size = SIZE, .norm_weight = weight, .norm_bias = bias, .eps = 64e-5};
    void *scratch = allocate(rk_heads_scratch(ops, RK_WKV7, SIZE));
    for (int constant = 0; constant < 2; constant++) {
        sequence.read = sequence.write = (char *)y, y += STATE;
        rk_wkv6 p6 = {.heads = heads, .decay = mix, .u = bias, .r = x, .k = x, .v = x, .w = constant ? NULL : x,
                      .g = constant ? NULL : x};
        p6.heads.y = y;
        rk_run_heads(ops, RK_WKV6, &p6.heads, &all, scratch, 1), y += TOKENS * WIDTH;
    }
    sequence.read = sequence.write = (char *)y, y += STATE;
    float *v = y;
    memcpy(v, x, TOKENS * WIDTH * sizeof *y), y += TOKENS * WIDTH;
    float *bonus = allocate(TOKENS * HEADS * sizeof *bonus), *v_first = allocate(TOKENS * WIDTH * sizeof *v_first);
    rk_wkv7 p7 = {
        .heads = heads, .w0 = weight, .a0 = bias, .v0 = mix, .k_k = weight, .k_a = bias, .r_k = mix, .r = x, .w = x,
        .k = x, .a = x, .g = x, .v_mix = x, .v = v, .v_used = v, .v_first = v_first, .bonus = bonus,
    };
    p7.heads.y = y;
    rk_run_heads(ops, RK_WKV7, &p7.heads, &all, scratch, 1), y += TOKENS * WIDTH;
    free(bonus), free(v_first), free(scratch);
    return y - out;
}

static void check_layer(const rk_table *table, const rk_table *portable)
{
    enum { IN = (TOKENS + 6) * WIDTH, OUT = 50 * TOKENS * WIDTH + 3 * STATE };
    static float *in = NULL;
    if (in == NULL) in = random_array(IN);
    float *got = allocate(OUT * sizeof(float)), *expected = allocate(OUT * sizeof(float));
    const ptrdiff_t n = run_layer(&table->f32, in, got);
    run_layer(&portable->f32, in, expected);
    if (n > OUT) exit(2);
    compare(table->name, "layer", got, expected, n, 1e-5);
    for (ptrdiff_t bytes = 0; bytes < 1000; bytes += 37)
        if (table->sum_words(in, bytes) != portable->sum_words(in, bytes))
            fail(table->name, "sum of words", bytes, 0, 1);
    free(got), free(expected);
}

/* Rounding of numbers of every sign, exponent and upper half of the mantissa, at and beside the middle. */
static void check_narrow(const rk_table *table, const rk_table *portable)
{
    enum { COUNT = 1 << 18 };
    static const uint32_t lower[] = {0, 0x0fff, 0x1000, 0x8001};
    float *x = allocate(COUNT * sizeof *x);
    uint16_t *got = allocate(COUNT * sizeof *got), *expected = allocate(COUNT * sizeof *expected);
    for (uint32_t i = 0; i < COUNT; i++) x[i] = rk_bits_to_f32((i >> 2) << 16 | lower[i & 3]);
    for (int dtype = RK_F16; dtype <= RK_BF16; dtype++) {
        rk_narrowing sums = {0}, same = {0};
        table->narrow(x, COUNT - 1, dtype, got, &sums); /* not whole vectors */
        portable->narrow(x, COUNT - 1, dtype, expected, &same);
        for (ptrdiff_t i = 0; i < COUNT - 1; i++)
            if (got[i] != expected[i]) fail(table->name, dtype == RK_F16 ? "f32 to f16" : "f32 to bf16", i, expected[i], got[i]);
        if (sums.nan != same.nan || sums.infinite != same.infinite || sums.overflowed != same.overflowed)
            fail(table->name, "numbers that are not finite", dtype, (double)same.overflowed, (double)sums.overflowed);
    }
    free(x), free(got), free(expected);
}

/* Copies, weights, their sums, places and nuclei have the same bits as those of the portable kernels. */
static void check_sample(const rk_table *table, const rk_table *portable)
{
    enum { COUNT = 1003 };
    float *x = random_array(COUNT), *got = allocate(COUNT * sizeof *got), *expected = allocate(COUNT * sizeof *expected);
    float *scratch = allocate(rk_nuclei_scratch(COUNT, 1) * sizeof *scratch);
    int32_t *places = allocate(COUNT * sizeof *places), *orders = allocate(COUNT * sizeof *orders);
    for (ptrdiff_t i = 0; i < COUNT; i++) memcpy(&orders[i], &x[i], sizeof *orders);
    for (ptrdiff_t n = 1; n <= COUNT; n += 167) {
        float most, largest = x[0];
        for (ptrdiff_t i = 1; i < n; i++) largest = x[i] > largest ? x[i] : largest;
        const int finite = table->copy_largest(x, n, got, &most);
        if (!finite || most != largest || memcmp(got, x, (size_t)n * sizeof *got)) fail(table->name, "copies", n, largest, most);
        const double sum = table->weigh(x, n, 1, 20, got), same = portable->weigh(x, n, 1, 20, expected);
        if (sum != same || memcmp(got, expected, (size_t)n * sizeof *got)) fail(table->name, "weights", n, same, sum);
        ptrdiff_t counts[2];
        const double from = table->weight_from(orders, got, n, orders[n - 1], &counts[0]);
        const double same_from = portable->weight_from(orders, got, n, orders[n - 1], &counts[1]);
        if (from != same_from || counts[0] != counts[1]) fail(table->name, "weights from an order on", n, same_from, from);
        const ptrdiff_t count = table->at_least(x, n, x[n - 1], places);
        ptrdiff_t k = 0;
        for (ptrdiff_t i = 0; i < n; i++) k += x[i] >= x[n - 1] && k < count && places[k] == i;
        ptrdiff_t all = 0;
        for (ptrdiff_t i = 0; i < n; i++) all += x[i] >= x[n - 1];
        if (count != all || k != all) fail(table->name, "places", n, (double)all, (double)k);
        rk_nucleus row = {.values = x, .n = n, .top_p = 0.8, .scale = 5, .places = places}, other = row;
        int32_t *others = allocate((size_t)n * sizeof *others);
        other.places = others;
        rk_find_nuclei(table, &row, 1, scratch, 1);
        rk_find_nuclei(portable, &other, 1, scratch, 1);
        if (row.count != other.count || memcmp(places, others, (size_t)row.count * sizeof *places))
            fail(table->name, "a nucleus", n, (double)other.count, (double)row.count);
        free(others);
    }
    free(x), free(got), free(expected), free(scratch), free(places), free(orders);
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "quick")) shape_count--;
    find_tables();
    printf("instruction sets:");
    for (int i = 0; i < table_count; i++) printf(" %s", tables[i]->name);
    printf("\n");
    const rk_table *portable = tables[table_count - 1];
    for (int i = 0; i < table_count; i++) {
        const rk_table *table = tables[i];
        for (int t = 0; t < TYPES; t++) {
            check_products(table, portable, types[t], 0, 0);
            if (types[t] == RK_F32 || types[t] == RK_F16 || types[t] == RK_BF16)
                check_products(table, portable, types[t], 1, 0);
        }
        check_products(table, portable, RK_BF16, 0, 1);
        check_products(table, portable, RK_BF16, 1, 1);
        check_layer(table, portable);
        check_narrow(table, portable);
        check_sample(table, portable);
        printf("%s: as the portable kernels\n", table->name);
    }
    printf("used by default: %s\n", rk_available(rk_default())->name);
    return 0;
}
