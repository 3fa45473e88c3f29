/* The C kernels' interface: tables of functions, one struct per matrix. */
#ifndef RK_H
#define RK_H

#include <stddef.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Storage types of a matrix. */
enum { RK_F32 = 0, RK_F64 = 1, RK_F16 = 2, RK_BF16 = 3, RK_Q8 = 4, RK_Q4 = 5, RK_BF12 = 6, RK_Q6 = 7 };

/* A weight matrix as it lies in memory, without gaps: `rows` rows of `cols` elements, or, transposed, `cols` columns of
 * `rows` elements. */
typedef struct {
    const void *data;
    ptrdiff_t rows;   /* outputs */
    ptrdiff_t cols;   /* inputs */
    int dtype;        /* RK_* */
    double scale;     /* a power of two that every product is multiplied by */
    int transposed;   /* never for quantized ones */
    int rounded;      /* activations are rounded to bf16 before they are multiplied */
    ptrdiff_t escapes; /* of packed bfloat16 (bf12.h): what its lists have room for; else 0 */
} rk_matrix;

/* One call of WKV of RWKV-4. Vectors are [width]; k, v, r and y are (tokens, width), of all tokens. Without r no y is
 * computed. aa, bb and pp begin at these bytes of a layer's row of the state. */
typedef struct {
    const void *w, *u, *k, *v, *r;
    void *y;
    ptrdiff_t width;
    size_t aa, bb, pp;
} rk_wkv4;

/* One call of WKV of RWKV-7. Vectors are [width = heads * size]; the rest are (tokens, width), of all tokens: r, k, v
 * as products give them; w, a, g and v_mix the results of the low-rank products. In the first layer v_mix is NULL and v
 * is written to v_first; in the others v_first is read. Without r no y is computed. bonus
 * is (tokens, heads). The state [heads, size (value), size (key)] begins at byte kv of a layer's row of the state. */
typedef struct {
    const void *w0, *a0, *v0, *k_k, *k_a, *r_k, *norm_weight, *norm_bias;
    const void *r, *w, *k, *a, *g, *v_mix;
    void *v, *v_first, *bonus, *y;
    double eps;
    ptrdiff_t width, heads, size;
    size_t kv;
} rk_wkv7;

/* Everything that runs over `[begin, end)` of something, for one type of activations. Arrays are
 * contiguous; `void *` stands for float or double, whichever the table is of. */
typedef struct rk_ops {
    /* Bytes of a number as `pack_token` takes it, and of one of y; how many of the former a vector has. */
    size_t itemsize, sumsize;
    ptrdiff_t lanes;
    /* Rows that one packed panel of a matrix holds, and tokens that go with it. */
    ptrdiff_t panel_rows, panel_tokens;
    /* Fewer tokens than this are not packed, but multiplied by `rows`, or by `columns` where the matrix is transposed,
     * which read it as it lies. */
    ptrdiff_t few_tokens;

    /* y[t, r] = scale * sum_k m[r, k] * x[t, k] for rows begin..end; y has `ldy` elements a token. */
    void (*rows)(const rk_matrix *m, const void *x, ptrdiff_t tokens, void *y, ptrdiff_t ldy,
                 ptrdiff_t begin, ptrdiff_t end);
    /* Lay x [cols] out for `panels`, as the token at `place` of a group of panel_tokens; NULL stands for zeros. */
    void (*pack_token)(const void *x, ptrdiff_t cols, ptrdiff_t place, void *group);
    /* The same product as `rows`, bit for bit, for panels begin..end and packed tokens.
     * scratch: of this thread alone, for packed panels and sums that wait (products.c has the size). */
    void (*panels)(const rk_matrix *m, const void *packed, ptrdiff_t tokens, void *y, ptrdiff_t ldy,
                   ptrdiff_t begin, ptrdiff_t end, void *scratch);

    /* For transposed matrices and up to RK_COLUMN_TOKENS tokens, the same product as `rows` (columns_body.h): sums
     * [lane][token][rows] of lanes begin..end, then the lanes' sums added into y. */
    void (*columns)(const rk_matrix *m, const void *x, int tokens, void *sums, ptrdiff_t begin, ptrdiff_t end);
    void (*add_lanes)(const rk_matrix *m, const void *sums, int tokens, void *y);

    /* Round n elements of float x to bf16, as numbers that `pack_token` takes; NULL in double. */
    void (*round)(const void *x, void *out, ptrdiff_t n);
    /* Products of many rounded activations with bf16 matrices, by an instruction that multiplies bf16: only sizes,
     * pack_token, panels and round are set. NULL where the CPU has none. */
    const struct rk_ops *bf16;

    /* For quantized matrices, NULL where activations are double: lay x [cols], token t of so many, out for `groups`, and
     * the same product for groups begin..end of sixteen rows (quant.h). */
    void (*quantize_token)(const void *x, int dtype, ptrdiff_t cols, ptrdiff_t tokens, ptrdiff_t t, void *packed);
    ptrdiff_t wide_groups; /* that are best taken together */
    void (*groups)(const rk_matrix *m, const void *packed, ptrdiff_t tokens, void *y, ptrdiff_t ldy, ptrdiff_t begin,
                   ptrdiff_t end);

    /* LayerNorm of tokens begin..end: y = (x - mean) / sqrt(var + eps) * weight + bias. */
    void (*layer_norm)(const void *x, const void *weight, const void *bias, double eps, ptrdiff_t width,
                       void *y, ptrdiff_t begin, ptrdiff_t end);
    /* Token shift of one token: y = x * mix + before * (1 - mix). */
    void (*token_shift)(const void *x, const void *before, const void *mix, ptrdiff_t width, void *y);
    /* The same with one weight: y = x + (before - x) * mix. */
    void (*token_lerp)(const void *x, const void *before, const void *mix, ptrdiff_t width, void *y);
    /* WKV of RWKV-4 over `tokens` tokens from p->k, p->v, p->r on, channels begin..end: y = sigmoid(r) * wkv. The state
     * is read from `read` and written to `write`: rows of a layer's state, which may be the same. */
    void (*wkv4)(const rk_wkv4 *p, ptrdiff_t first, ptrdiff_t tokens, const char *read, char *write, ptrdiff_t begin,
                 ptrdiff_t end);
    /* WKV of RWKV-7 over `tokens` tokens from `first` on, value rows begin..end of one head; then GroupNorm, bonus and
     * gate of one head, once all of its rows are there. scratch: rk_wkv7_scratch bytes. */
    void (*wkv7)(const rk_wkv7 *p, ptrdiff_t first, ptrdiff_t tokens, ptrdiff_t head, const char *read, char *write,
                 ptrdiff_t begin, ptrdiff_t end, void *scratch);
    void (*wkv7_finish)(const rk_wkv7 *p, ptrdiff_t first, ptrdiff_t tokens, ptrdiff_t head);
    /* y = tanh(x), and y = 1 / (1 + e^-x), for n elements. */
    void (*tanh)(const void *x, void *y, ptrdiff_t n);
    void (*sigmoid)(const void *x, void *y, ptrdiff_t n);
    /* y = max(x, 0)^2 for n elements. */
    void (*relu_squared)(const void *x, void *y, ptrdiff_t n);
    /* y += sigmoid(gate) * x for elements begin..end. */
    void (*add_gated)(void *y, const void *gate, const void *x, ptrdiff_t begin, ptrdiff_t end);
    /* y += x for elements begin..end. */
    void (*add)(void *y, const void *x, ptrdiff_t begin, ptrdiff_t end);
    /* x *= factor for elements begin..end. */
    void (*multiply)(void *x, double factor, ptrdiff_t begin, ptrdiff_t end);
    /* Whether none of n elements is NaN or infinite. */
    int (*all_finite)(const void *x, ptrdiff_t n);
} rk_ops;

typedef struct {
    const char *name;
    rk_ops f32, f64;
    rk_ops bf16; /* what f32.bf16 points to */
    /* The sum of so many bytes as 64-bit words: what reading alone takes. */
    uint64_t (*sum_words)(const void *data, ptrdiff_t bytes);
} rk_table;

/* Families of kernels, one member an instruction set: each sets its own part of a table (cpu.c puts them together). Those
 * of `floats` come first. */
void rk_doubles(rk_table *table);
void rk_floats_portable(rk_table *table), rk_quantized_portable(rk_table *table);
#if defined(__x86_64__)
void rk_floats_avx2(rk_table *table), rk_floats_avx512(rk_table *table);
void rk_quantized_avx2(rk_table *table), rk_quantized_avx512vnni(rk_table *table);
void rk_bf16_avx512(rk_table *table);
#endif
#if defined(__aarch64__)
void rk_floats_neon(rk_table *table), rk_quantized_neon(rk_table *table);
#endif

/* The i-th table that this build has and this CPU can run, best first; NULL past the end. */
const rk_table *rk_available(int i);

/* The name of the i-th table in this build, best first; NULL past the end. */
const char *rk_built(int i);

/* --- threads (threads_pool.c, threads_other.c) and the drivers that use them (products.c, drive.c) --- */

/* Who shares the work among threads; setup.py chooses. */
#define RK_THREADS_NONE 0
#define RK_THREADS_POOL 1
#define RK_THREADS_OPENMP 2
#ifndef RK_THREADS
#define RK_THREADS RK_THREADS_NONE
#endif

typedef void (*rk_body)(void *context, ptrdiff_t begin, ptrdiff_t end, int thread);

/* Call body over all of [0, n), on up to `threads` threads. It is cut into pieces of `grain` items, the last of which may
 * be shorter; one call gets one piece or many, up to all of them, that lie together. */
void rk_parallel(ptrdiff_t n, ptrdiff_t grain, int threads, rk_body body, void *context);

/* Work for so many threads is about to come: if more than one, all that sleep wake up, and those that spin go on. */
void rk_wake(int threads);

/* Float weights [rows, cols] into quantized groups of `dtype` (RK_Q8, RK_Q6, RK_Q4), and back (quantize.c). */
void rk_quantize(const float *w, ptrdiff_t rows, ptrdiff_t cols, int dtype, void *out);
void rk_dequantize(const void *packed, ptrdiff_t rows, ptrdiff_t cols, int dtype, float *w);

/* bfloat16 [rows, cols] and packed bfloat16 (bf12.c, bf12.h). Add how often each exponent occurs in n weights to
 * counts[256]; pack rows, which gives chunks, the escapes of all rows one after the other, and where those of each row
 * end; and unpack rows, but for the escapes. rk_bf12_pack returns how many escapes there are; beyond `room` none is
 * written. */
void rk_bf12_count(const uint16_t *words, ptrdiff_t n, long long *counts);
ptrdiff_t rk_bf12_pack(const uint16_t *words, ptrdiff_t rows, ptrdiff_t cols, const uint8_t *table, uint8_t *chunks,
                       uint16_t *escapes, ptrdiff_t room, long long *ends);
void rk_bf12_unpack(const uint8_t *table, const uint8_t *chunks, ptrdiff_t rows, ptrdiff_t cols, uint16_t *words);
/* out[c * out_stride + r] = in[r * in_stride + c], items of 2, 4 or 8 bytes; strides in items (transpose.c). */
void rk_transpose(const void *in, size_t itemsize, size_t rows, size_t cols, size_t in_stride, void *out,
                  size_t out_stride);

/* A stretch of memory, and the sum of its words (stream.c). */
typedef struct {
    const void *data;
    ptrdiff_t bytes;
    uint64_t sum;
} rk_piece;

/* Set the sum of each piece: every byte is read once, the pieces shared among threads. */
void rk_read(const rk_table *table, rk_piece *pieces, ptrdiff_t count, int threads);

/* Tokens begin .. end of many belong to one sequence. Its row of the state in the layer that runs is read from `read`
 * and written to `write`, which may be the same. */
typedef struct {
    ptrdiff_t begin, end;
    const char *read;
    char *write;
} rk_sequence;

/* Tokens, and the sequences that they make, none of them empty; none at all for products without a shift. */
typedef struct {
    ptrdiff_t count;
    const rk_sequence *sequences;
    ptrdiff_t sequence_count;
} rk_tokens;

/* The sequence of token t. */
const rk_sequence *rk_sequence_of(const rk_tokens *all, ptrdiff_t t);

/* What is multiplied, of a product's x. */
enum {
    RK_AS_IT_IS,
    RK_SHIFTED,      /* its token shift by mix [cols]: x * mix + before * (1 - mix) */
    RK_LERPED,       /* x + (before - x) * mix */
    RK_RELU_SQUARED, /* max(x, 0)^2 */
    RK_TANH,
    RK_SIGMOID
};

/* What follows a product. */
enum {
    RK_NOTHING,
    RK_ADD,      /* into += y */
    RK_ADD_GATED /* into += sigmoid(gate) * y */
};

/* One product of rk_matmul: y[t, r] = scale * sum_k m[r, k] * x[t, k], x as `first` says, and what follows as `then`
 * says; y is overwritten in any case. gate and into are of the shape of y. The token before the first of a sequence
 * begins at byte `before` of its state. */
typedef struct {
    const rk_matrix *m;
    const void *x;
    int first;
    const void *mix;
    size_t before;
    void *y;
    int then;
    const void *gate;
    void *into;
} rk_product;

#define RK_MOST_PRODUCTS 8 /* in one shared operation */

/* Bytes of scratch that one product of rk_matmul needs for so many tokens and threads. */
size_t rk_matmul_scratch(const rk_ops *ops, const rk_matrix *m, ptrdiff_t tokens, int threads);

/* Products that do not depend on one another, over the same tokens, RK_MOST_PRODUCTS at a time. scratch: the sum of what each
 * needs. */
void rk_matmul(const rk_ops *ops, const rk_product *products, int count, const rk_tokens *all, void *scratch,
               int threads);
void rk_layer_norm(const rk_ops *ops, const void *x, const void *weight, const void *bias, double eps,
                   ptrdiff_t tokens, ptrdiff_t width, void *y, int threads);
/* WKV of each version over all sequences, whose states are updated. */
void rk_run_wkv4(const rk_ops *ops, const rk_wkv4 *p, const rk_tokens *all, int threads);
void rk_run_wkv7(const rk_ops *ops, const rk_wkv7 *p, const rk_tokens *all, void *scratch, int threads);

/* Bytes of one thread's scratch for WKV of RWKV-7: five vectors of a head, padded to whole vectors of numbers. */
static inline size_t rk_wkv7_scratch(const rk_ops *ops, ptrdiff_t size)
{
    return (size_t)((size + 15) / 16 * 16) * 5 * ops->sumsize;
}
void rk_multiply(const rk_ops *ops, void *x, double factor, ptrdiff_t n, int threads);

/* Bytes of a row that one step of `panels` covers at most: a packed panel and a packed group of tokens fit the
 * first-level cache. And those that are packed at a time: eight panels of them fit the second-level cache. */
#define RK_STEP_BYTES 4096
#define RK_RUN_BYTES 12288

/* Columns of one part where there are `cols`: all, or a multiple of 128, which one chunk of packed bfloat16 has. */
static inline ptrdiff_t rk_even_part(ptrdiff_t cols, size_t itemsize, ptrdiff_t bytes)
{
    const ptrdiff_t most = bytes / (ptrdiff_t)itemsize, parts = (cols + most - 1) / most;
    return parts <= 1 ? cols : ((cols + parts - 1) / parts + 127) / 128 * 128;
}

/* Columns that are packed at a time, and those of a step. */
static inline ptrdiff_t rk_panel_run(ptrdiff_t cols, size_t itemsize)
{
    return rk_even_part(cols, itemsize, RK_RUN_BYTES);
}

static inline ptrdiff_t rk_panel_step(ptrdiff_t cols, size_t itemsize)
{
    return rk_even_part(rk_panel_run(cols, itemsize), itemsize, RK_STEP_BYTES);
}

/* Panels that are packed together. The packed tokens may have left the second-level cache before they are needed again:
 * more panels at a time ask for them less often, and write longer pieces of the result. */
static inline ptrdiff_t rk_block_panels(ptrdiff_t cols, size_t itemsize)
{
    return 2 * rk_panel_run(cols, itemsize) * (ptrdiff_t)itemsize <= RK_RUN_BYTES ? 16 : 8;
}

/* Tokens that go through a transposed matrix together where they are few. */
#define RK_COLUMN_TOKENS 4

#endif
