/* The states that are prefetched: by products, every cache line once, in the states and nowhere else, by the thread that
 * will read it; by the WKV, the head that is next. The kernels are replaced by functions that record what they are
 * given. Exits with 1 at the first difference. */
#include "samples.h"
#include "gemm/ahead.h"
#include "wkv/versions.h"

enum { TOKENS = 8, COLS = 128, MOST_SEQUENCES = 40, MOST_THREADS = 7, LINE = 64 };

static const size_t field = 192;
static char *memory;               /* of the states; never read */
static unsigned char *seen;        /* by line of the states' fields: how often it was prefetched */
static ptrdiff_t sequences, bytes; /* states, and bytes of the field of each */
static ptrdiff_t row, outside;     /* bytes from one state to the next; lines outside of the fields */

static ptrdiff_t lines_of_state(void) { return (bytes + LINE - 1) / LINE; }

static void record_groups(const rk_matrix *m, const void *packed, ptrdiff_t tokens, void *y, ptrdiff_t ldy,
                          ptrdiff_t begin, ptrdiff_t end, void *scratch, rk_states_ahead *states)
{
    (void)m, (void)packed, (void)tokens, (void)y, (void)ldy, (void)begin, (void)end, (void)scratch;
    while (states->left > 0) {
        const ptrdiff_t at = states->at - memory, sequence = at / row, within = at % row - (ptrdiff_t)field;
        if (at < 0 || sequence >= sequences || within < 0 || within >= bytes)
            __atomic_fetch_add(&outside, 1, __ATOMIC_RELAXED);
        else
            __atomic_fetch_add(&seen[sequence * lines_of_state() + within / LINE], 1, __ATOMIC_RELAXED);
        rk_prefetch_states(states, 1);
    }
}

static void skip_rows(const rk_matrix *m, const void *x, ptrdiff_t tokens, void *y, ptrdiff_t ldy, ptrdiff_t begin,
                      ptrdiff_t end)
{
    (void)m, (void)x, (void)tokens, (void)y, (void)ldy, (void)begin, (void)end;
}

static rk_matrix matrix(int dtype, ptrdiff_t rows) { return (rk_matrix){.rows = rows, .cols = COLS, .dtype = dtype}; }

/* Products of these matrices, with `count` states that are prefetched meanwhile, `size` bytes of each. */
static void multiply(const rk_table *table, const rk_matrix *matrices, int products, ptrdiff_t count, ptrdiff_t size,
                     int threads)
{
    rk_ops ops = table->f32;
    ops.groups = record_groups, ops.rows = skip_rows, ops.tiles = NULL, ops.bf16 = NULL, ops.few_tokens = TOKENS + 1;
    sequences = count, bytes = size, row = size + 3 * (ptrdiff_t)field, outside = 0;
    seen = allocate((size_t)(count * lines_of_state()));
    memory = malloc((size_t)(count * row));
    float *x = allocate(TOKENS * COLS * sizeof *x);
    rk_sequence own[MOST_SEQUENCES];
    for (ptrdiff_t i = 0; i < count; i++) own[i] = (rk_sequence){i, i + 1, memory + i * row, NULL, 0};
    rk_product all[RK_MOST_PRODUCTS];
    size_t scratch = 0;
    for (int i = 0; i < products; i++) {
        all[i] = (rk_product){.m = &matrices[i], .x = x, .stride = COLS, .y = x};
        scratch += rk_matmul_scratch(&ops, &matrices[i], TOKENS, threads);
    }
    void *own_scratch = allocate(scratch);
    const rk_tokens tokens = {TOKENS, own, count};
    rk_matmul_ahead(&ops, all, products, &tokens, field, size, own_scratch, threads);
    free(own_scratch), free(x), free(memory);
    if (outside) fail(table->name, "lines outside of the states", threads, 0, (double)outside);
}

/* Every line from first to end was prefetched once, and no other. */
static void expect_lines(const rk_table *table, const char *what, ptrdiff_t first, ptrdiff_t end)
{
    for (ptrdiff_t i = 0; i < sequences * lines_of_state(); i++)
        if (seen[i] != (i >= first && i < end)) fail(table->name, what, i, i >= first && i < end, seen[i]);
    free(seen);
}

static void check_products(const rk_table *table)
{
    const rk_matrix quantized[] = {matrix(RK_Q4, 4096), matrix(RK_Q8, 16), matrix(RK_Q6, 1040), matrix(RK_Q4N, 8)};
    const rk_matrix late[] = {matrix(RK_F32, 1 << 15), matrix(RK_Q4, 1024)};
    const rk_matrix early[] = {matrix(RK_Q4, 1024), matrix(RK_F32, 1 << 15)};
    const rk_matrix floats[] = {matrix(RK_F32, 4096)};
    for (int threads = 1; threads <= MOST_THREADS; threads++) {
        for (int products = 1; products <= 4; products++) {
            multiply(table, quantized, products, 5, 7 * LINE, threads);
            expect_lines(table, "every line once", 0, 35);
        }
        /* Fewer pieces than threads, and fewer lines than groups. */
        multiply(table, &quantized[1], 1, 1, 3 * LINE, threads);
        expect_lines(table, "one piece", 0, 3);
        multiply(table, quantized, 4, 1, LINE - 8, threads);
        expect_lines(table, "less than a line", 0, 0);
        /* A field that ends within a cache line. */
        multiply(table, quantized, 4, 5, 100, threads);
        free(seen);
        multiply(table, floats, 1, 5, 7 * LINE, threads);
        expect_lines(table, "float matrices prefetch nothing", 0, 0);
        /* The threads whose pieces are all of the float matrix do not prefetch the others' states. */
        multiply(table, late, 2, 14, 2 * LINE, threads);
        expect_lines(table, "the last thread's states", 28 * (threads - 1) / threads, 28);
        multiply(table, early, 2, 14, 2 * LINE, threads);
        expect_lines(table, "the first thread's states", 0, 28 / threads);
    }
    /* At most 8 MB. */
    multiply(table, quantized, 4, 17, 1 << 19, 2);
    expect_lines(table, "the first states", 0, 16 * (1 << 19) / LINE);
}

/* --- WKV --- */

enum { HEADS = 3, SIZE = 64, HEAD_BYTES = SIZE * SIZE * sizeof(float), STATE = HEADS * HEAD_BYTES };

static const void *next[MOST_SEQUENCES][HEADS]; /* what was prefetched with the first token of a head */
static ptrdiff_t later;                         /* calls for later tokens in which something was */

static void record_rows(const rk_heads *p, ptrdiff_t first, ptrdiff_t tokens, ptrdiff_t head, const char *read,
                        char *write, ptrdiff_t begin, ptrdiff_t end, const void *ahead, void *scratch)
{
    (void)p, (void)tokens, (void)read, (void)write, (void)end, (void)scratch;
    if (first % 2 != 0) /* the second token of a sequence */
        later += ahead != NULL;
    else if (begin == 0 || ahead != NULL)
        next[first / 2][head] = ahead;
}

/* For messages: where an address is in the states; -1 for none. */
static double place(const void *address) { return address == NULL ? -1 : (double)((const char *)address - memory); }

/* Sequences of two tokens, which share a state or have one each. */
static void check_heads(const rk_table *table, int version, ptrdiff_t stride, ptrdiff_t count, int threads)
{
    rk_ops ops = table->f32;
    ops.wkv[version].rows = record_rows;
    const rk_heads heads = {.count = HEADS, .size = SIZE, .kv = field};
    rk_sequence own[MOST_SEQUENCES];
    memory = malloc((size_t)count * (STATE + field));
    for (ptrdiff_t i = 0; i < count; i++)
        own[i] = (rk_sequence){2 * i, 2 * i + 2, memory + (count - 1 - i) * (ptrdiff_t)(STATE + field), memory, stride};
    const rk_tokens tokens = {2 * count, own, count};
    char *scratch = allocate((size_t)threads * rk_heads_scratch(&ops, version, SIZE));
    later = 0;
    rk_run_heads(&ops, version, &heads, &tokens, scratch, threads);
    if (later) fail(table->name, "prefetched with a later token", stride, 0, (double)later);
    const int whole = threads <= count * HEADS;
    for (ptrdiff_t unit = 0; unit < count * HEADS; unit++) {
        const ptrdiff_t following = unit + 1;
        const void *expected = NULL;
        if (whole && following < count * HEADS)
            expected = own[following / HEADS].read + field + following % HEADS * (ptrdiff_t)HEAD_BYTES;
        if (next[unit / HEADS][unit % HEADS] != expected)
            fail(table->name, "the head that is next", unit, place(expected), place(next[unit / HEADS][unit % HEADS]));
    }
    free(scratch), free(memory);
}

int main(void)
{
    const rk_table *table;
    for (int i = 0; (table = rk_available(i)) != NULL; i++) {
        check_products(table);
        for (int threads = 1; threads <= MOST_THREADS; threads++)
            for (int version = RK_WKV6; version <= RK_WKV7; version++)
                for (ptrdiff_t count = 1; count < 4; count++)
                    for (ptrdiff_t stride = 0; stride < 2; stride++)
                        check_heads(table, version, stride * (ptrdiff_t)(STATE + field), count, threads);
        printf("%s: the states that are used next are prefetched\n", table->name);
    }
    return 0;
}
