/* The C kernels' interface: tables of functions, one struct per matrix. */
#ifndef RK_H
#define RK_H

#include <stddef.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "gradient_ops.h"
#include "wkv/versions.h"

/* Storage types of a matrix. */
enum { RK_F32 = 0, RK_F64 = 1, RK_F16 = 2, RK_BF16 = 3, RK_Q8 = 4, RK_Q4 = 5, RK_BF12 = 6, RK_Q6 = 7, RK_Q4N = 8 };

/* Copies of what a matrix is multiplied with: the first `capacity` tokens of it, of which there are `count`. */
typedef struct rk_inputs {
    float *rows; /* [capacity][cols] */
    ptrdiff_t capacity, count;
} rk_inputs;

/* A weight matrix in its stored layout, without gaps: `rows` rows of `cols` elements or, if transposed, `cols` columns
 * of `rows` elements. */
typedef struct {
    const void *data;
    ptrdiff_t rows;   /* outputs */
    ptrdiff_t cols;   /* inputs */
    int dtype;        /* RK_* */
    double scale;     /* a power of two that every product is multiplied by */
    int transposed;   /* always 0 for quantized matrices */
    int rounded;      /* round activations to bf16 before the product */
    struct rk_inputs *inputs; /* where the inputs of every product are copied to; NULL: nowhere */
    ptrdiff_t escapes; /* bf12 only (bf12.h): capacity of the escape lists; else 0 */
} rk_matrix;

/* What every WKV call has, at the beginning of the version's own struct (wkv/): of a vector-valued state, `width`
 * channels; of a matrix-valued one, `count` heads of `size` channels.
 * kv: byte offset of the state [count, size (value), size (key)] in a layer's row.
 * y: the result, shape (tokens, count * size), normalized by GroupNorm in each head; NULL if it is not computed. */
typedef struct {
    ptrdiff_t width;
} rk_channels;

typedef struct {
    ptrdiff_t count, size;
    size_t kv;
    const void *norm_weight, *norm_bias;
    double eps;
    void *y;
} rk_heads;

/* The WKV of one version. The layer's row of a sequence's state is read from `read` and written to `write`, which may be
 * equal; `tokens` tokens from `first` on belong to the sequence.
 * channels: of a vector-valued state, channels begin..end.
 * rows: of a matrix-valued state, value rows begin..end of one head. ahead: the state of the head that is read next,
 * whose rows begin..end are prefetched; NULL: nothing is. scratch: rk_heads_scratch bytes, which hold `vectors` vectors
 * of a head. `finish` applies what needs a whole head of y.
 * heads_gradient: the backward pass of one head of one sequence; p is the version's own struct of gradients. `read` is
 * the state before the first token; d_state, the gradient of the state after the last token, becomes that of the state
 * before the first. The gradients of parameters are written to `part`: `sums` vectors [width]. scratch:
 * rk_heads_gradient_scratch bytes, which hold `gradient_vectors` vectors of a head for each token of a segment. */
typedef struct {
    void (*channels)(const rk_channels *p, ptrdiff_t first, ptrdiff_t tokens, const char *read, char *write,
                     ptrdiff_t begin, ptrdiff_t end);
    void (*rows)(const rk_heads *p, ptrdiff_t first, ptrdiff_t tokens, ptrdiff_t head, const char *read, char *write,
                 ptrdiff_t begin, ptrdiff_t end, const void *ahead, void *scratch);
    void (*finish)(const rk_heads *p, ptrdiff_t first, ptrdiff_t tokens, ptrdiff_t head);
    /* The backward pass of `channels`: p is the version's own struct of gradients. */
    void (*channels_gradient)(const rk_channels *p, ptrdiff_t first, ptrdiff_t tokens, const char *read, char *d_state,
                              ptrdiff_t begin, ptrdiff_t end, void *scratch);
    void (*heads_gradient)(const rk_heads *p, ptrdiff_t first, ptrdiff_t tokens, ptrdiff_t head, const char *read,
                           char *d_state, void *part, void *scratch);
    ptrdiff_t vectors, gradient_vectors, sums;
} rk_wkv;

/* Tokens begin..end of a batch, which belong to one sequence. The current layer's row of its state is read from `read`
 * and written to `write`, which may be equal. With a `stride`, the state after token begin + i is written to
 * write + i * stride, and `read` may be one of these. */
typedef struct {
    ptrdiff_t begin, end;
    const char *read;
    char *write;
    ptrdiff_t stride;
} rk_sequence;

/* What is read after a product, and prefetched during it: of the states of some sequences, `bytes` bytes from offset
 * `field` on. `at` is the next address, in the first sequence; `left` bytes remain. */
typedef struct {
    const rk_sequence *sequence;
    const char *at;
    size_t field;
    ptrdiff_t bytes, left;
} rk_states_ahead;

/* Kernels for one type of activations; most process a range `[begin, end)`. Arrays are contiguous. `void *` stands for
 * float or double, the activation type of the table. */
typedef struct rk_ops {
    /* Bytes of an element that `pack_token` reads and of an element of y; elements of the first kind in a vector. */
    size_t itemsize, sumsize;
    ptrdiff_t lanes;
    /* Size of a row tile: rows of a packed panel, and tokens that are multiplied with it. */
    ptrdiff_t panel_rows, panel_tokens;
    /* Below this number of tokens nothing is packed: `rows`, or `columns` for a transposed matrix, reads the matrix in
     * its stored layout. */
    ptrdiff_t few_tokens;

    /* y[t, r] = scale * sum_k m[r, k] * x[t, k] for rows begin..end; y has `ldy` elements a token. */
    void (*rows)(const rk_matrix *m, const void *x, ptrdiff_t tokens, void *y, ptrdiff_t ldy,
                 ptrdiff_t begin, ptrdiff_t end);
    /* Pack x [cols] for `panels`, as token number `place` of a group of panel_tokens; NULL stands for zeros. */
    void (*pack_token)(const void *x, ptrdiff_t cols, ptrdiff_t place, void *group);
    /* The same product as `rows`, bit for bit, for panels begin..end and packed tokens.
     * scratch: private to the thread; holds packed panels and partial sums (products.c computes its size). */
    void (*panels)(const rk_matrix *m, const void *packed, ptrdiff_t tokens, void *y, ptrdiff_t ldy,
                   ptrdiff_t begin, ptrdiff_t end, void *scratch);

    /* The same product as `rows` for a transposed matrix and up to RK_COLUMN_TOKENS tokens (columns_body.h): `columns`
     * computes sums [lane][token][rows] of lanes begin..end, `add_lanes` adds the lanes' sums into y. */
    void (*columns)(const rk_matrix *m, const void *x, int tokens, void *sums, ptrdiff_t begin, ptrdiff_t end);
    void (*add_lanes)(const rk_matrix *m, const void *sums, int tokens, void *y);

    /* Round n floats to bf16, in the element type that `pack_token` reads; NULL for double. */
    void (*round)(const void *x, void *out, ptrdiff_t n);
    /* Products of many rounded activations with bf16 matrices, by the CPU's bf16 instructions: only sizes, pack_token,
     * panels, scratch and round are set. NULL if the CPU does not have them. */
    const struct rk_ops *bf16;

    /* Quantized matrices; NULL if activations are double. `quantize_token` quantizes and packs x [cols], token t of
     * `tokens`, each block in packed_bytes(dtype); `groups` computes the same product as `rows` for groups begin..end of sixteen
     * rows (quant.h), and meanwhile prefetches `states`. */
    void (*quantize_token)(const void *x, int dtype, ptrdiff_t cols, ptrdiff_t tokens, ptrdiff_t t, void *packed);
    ptrdiff_t (*packed_bytes)(int dtype);
    ptrdiff_t wide_groups;  /* groups that `groups` processes together */
    ptrdiff_t whole_tokens; /* tokens are packed in multiples of this; those past the last are NULL, for zeros */
    void (*groups)(const rk_matrix *m, const void *packed, ptrdiff_t tokens, void *y, ptrdiff_t ldy, ptrdiff_t begin,
                   ptrdiff_t end, void *scratch, rk_states_ahead *states);
    /* The same for few_tokens and more, bit for bit, by tiles of tokens and rows, in registers or in hardware: only sizes,
     * packed_bytes, quantize_token, groups and scratch are set. NULL if there are none for this CPU. */
    const struct rk_ops *tiles;

    /* Bytes of a thread's scratch for `groups`, or for `panels` if their layout is not that of panels_body.h; NULL
     * otherwise. */
    size_t (*scratch)(const rk_matrix *m, ptrdiff_t tokens);

    /* LayerNorm of tokens begin..end: y = (x - mean) / sqrt(var + eps) * weight + bias. */
    void (*layer_norm)(const void *x, const void *weight, const void *bias, double eps, ptrdiff_t width,
                       void *y, ptrdiff_t begin, ptrdiff_t end);
    /* Token shift of one token: y = x * mix + before * (1 - mix). */
    void (*token_shift)(const void *x, const void *before, const void *mix, ptrdiff_t width, void *y);
    /* The same with one weight: y = x + (before - x) * (mix + more); more may be NULL. */
    void (*token_lerp)(const void *x, const void *before, const void *mix, const void *more, ptrdiff_t width, void *y);
    /* By version (wkv/versions.h). */
    rk_wkv wkv[RK_WKV_VERSIONS];
    /* y = tanh(x), and y = 1 / (1 + e^-x), for n elements. */
    void (*tanh)(const void *x, void *y, ptrdiff_t n);
    void (*sigmoid)(const void *x, void *y, ptrdiff_t n);
    /* y = max(x, 0)^2 for n elements. */
    void (*relu_squared)(const void *x, void *y, ptrdiff_t n);
    /* y = max(x, 0)^2 * (mix + more) for n elements. */
    void (*relu_squared_scaled)(const void *x, const void *mix, const void *more, void *y, ptrdiff_t n);
    /* y += sigmoid(gate) * x for elements begin..end. */
    void (*add_gated)(void *y, const void *gate, const void *x, ptrdiff_t begin, ptrdiff_t end);
    /* y += gate * x for elements begin..end. */
    void (*add_scaled)(void *y, const void *gate, const void *x, ptrdiff_t begin, ptrdiff_t end);
    /* y[t] = x[t] m[t] for tokens begin..end: x and y have shape (tokens, size); m (tokens, size, size), [in, out], is a
     * matrix of each token. */
    void (*token_matrices)(const void *x, const void *m, ptrdiff_t size, void *y, ptrdiff_t begin, ptrdiff_t end);
    /* y += x for elements begin..end. */
    void (*add)(void *y, const void *x, ptrdiff_t begin, ptrdiff_t end);
    /* x *= factor for elements begin..end. */
    void (*multiply)(void *x, double factor, ptrdiff_t begin, ptrdiff_t end);
    rk_gradients gradients;
    /* Whether all n elements are finite. */
    int (*all_finite)(const void *x, ptrdiff_t n);
} rk_ops;

/* What rounding n floats to 16 bits made of them. The sums and the largest error leave out what is not finite, before or
 * after. */
typedef struct {
    double largest, squared_error, squares;
    uint64_t nan, infinite; /* before */
    uint64_t overflowed;    /* finite before, infinite after */
} rk_narrowing;

/* Kernel families: each comes from the best instruction set that has it (cpu.c). */
enum { RK_FLOATS, RK_QUANTIZED, RK_BF16_PRODUCTS, RK_INT8_TILES, RK_FAMILIES };

typedef struct {
    const char *name;
    const char *families[RK_FAMILIES]; /* the instruction set that each family comes from; NULL if there is none */
    rk_ops f32, f64;
    rk_ops bf16, tiles; /* what f32.bf16 and f32.tiles point to */
    /* Sum of a span as 64-bit words: measures read bandwidth. */
    uint64_t (*sum_words)(const void *data, ptrdiff_t bytes);
    /* Round n < 2^32 floats to RK_F16 or RK_BF16 and add to `sums`, in one pass. */
    void (*narrow)(const float *x, ptrdiff_t n, int dtype, uint16_t *out, rk_narrowing *sums);
    /* For the candidates of the next token (sample_body.h). */
    int (*copy_largest)(const float *x, ptrdiff_t n, float *copy, float *largest);
    double (*weigh)(const float *x, ptrdiff_t n, float largest, float scale, float *weights);
    ptrdiff_t (*at_least)(const float *x, ptrdiff_t n, float least, int32_t *places);
    double (*weight_from)(const int32_t *orders, const float *weights, ptrdiff_t n, int32_t least, ptrdiff_t *count);
} rk_table;

/* One function per family and instruction set. Each fills in its part of a table; cpu.c composes them in the order of
 * families. */
void rk_doubles(rk_table *table);
void rk_floats_portable(rk_table *table), rk_quantized_portable(rk_table *table);
#if defined(__x86_64__)
void rk_floats_avx2(rk_table *table), rk_floats_avx512(rk_table *table);
void rk_quantized_avx2(rk_table *table), rk_quantized_avxvnni(rk_table *table), rk_quantized_avx512vnni(rk_table *table);
void rk_bf16_avx512(rk_table *table), rk_bf16_amx(rk_table *table);
void rk_int8_amx(rk_table *table);
#endif
#if defined(__aarch64__)
void rk_floats_neon(rk_table *table), rk_quantized_neon(rk_table *table), rk_quantized_dotprod(rk_table *table);
void rk_bf16_neon(rk_table *table);
void rk_int8_neon(rk_table *table), rk_int8_dotprod(rk_table *table), rk_int8_i8mm(rk_table *table);
#endif

/* The i-th table that is compiled in and that this CPU can run, best first; NULL past the end. */
const rk_table *rk_available(int i);

/* Which of them is used unless another one is named. */
int rk_default(void);

/* The name of the i-th instruction set in this build, best first, and of the i-th that the compiler could not build; NULL
 * past the end. */
const char *rk_built(int i), *rk_left_out(int i);
#if defined(__x86_64__)
int rk_has_avx2(void); /* with FMA and F16C */
#endif

/* --- threads (threads_pool.c, threads_other.c) and the drivers that use them (products.c, drive.c) --- */

/* Thread backend, selected by setup.py. */
#define RK_THREADS_NONE 0
#define RK_THREADS_POOL 1
#define RK_THREADS_OPENMP 2
#ifndef RK_THREADS
#define RK_THREADS RK_THREADS_NONE
#endif

typedef void (*rk_body)(void *context, ptrdiff_t begin, ptrdiff_t end, int thread);

/* Call body over all of [0, n), on up to `threads` threads. The range is split into pieces of `grain` items, the last
 * of which may be shorter; one call of body gets a run of one or more adjacent pieces. */
void rk_parallel(ptrdiff_t n, ptrdiff_t grain, int threads, rk_body body, void *context);

/* Announce work for `threads` threads. If that is more than one, sleeping workers wake up and spinning ones keep
 * spinning. */
void rk_wake(int threads);

/* Quantize float weights [rows, cols] to groups of `dtype` (RK_Q8, RK_Q6, RK_Q4, RK_Q4N), and the reverse (quantize.c).
 * importance [cols]: weights of the squared errors, not negative and finite; NULL if all are equal. */
void rk_quantize(const float *w, ptrdiff_t rows, ptrdiff_t cols, int dtype, const float *importance, void *out);
void rk_dequantize(const void *packed, ptrdiff_t rows, ptrdiff_t cols, int dtype, float *w);

/* Compressed bfloat16 (bf12.c, bf12.h). rk_bf12_count adds the histogram of the exponents of n weights to counts[256].
 * rk_bf12_pack compresses rows to chunks, the escapes of all rows in order, and the end of each row's escapes; it
 * returns the number of escapes and writes at most `capacity` of them. rk_bf12_unpack decodes rows but does not apply
 * the escapes. */
void rk_bf12_count(const uint16_t *words, ptrdiff_t n, long long *counts);
ptrdiff_t rk_bf12_pack(const uint16_t *words, ptrdiff_t rows, ptrdiff_t cols, const uint8_t *table, uint8_t *chunks,
                       uint16_t *escapes, ptrdiff_t capacity, long long *ends);
void rk_bf12_unpack(const uint8_t *table, const uint8_t *chunks, ptrdiff_t rows, ptrdiff_t cols, uint16_t *words);
/* out[c * out_stride + r] = in[r * in_stride + c], items of 2, 4 or 8 bytes; strides in items (transpose.c). */
void rk_transpose(const void *in, size_t itemsize, size_t rows, size_t cols, size_t in_stride, void *out,
                  size_t out_stride);

/* A span of memory, and the sum of its words (stream.c). */
typedef struct {
    const void *data;
    ptrdiff_t bytes;
    uint64_t sum;
} rk_piece;

/* Let the system begin to read rows of a table in a mapped file, without waiting (prefetch.c). Otherwise each page fault
 * waits for its row and, since the system reads ahead, for what is around it. This is advice: failure is ignored. */
void rk_prefetch_rows(const void *data, size_t row_bytes, const long long *ids, ptrdiff_t count);

/* Compute the sum of each piece. Every byte is read once; threads share the pieces. */
void rk_read(const rk_table *table, rk_piece *pieces, ptrdiff_t count, int threads);

/* A batch of tokens and its sequences, each of at least one token. Products without a token shift need no sequences. */
typedef struct {
    ptrdiff_t count;
    const rk_sequence *sequences;
    ptrdiff_t sequence_count;
} rk_tokens;

/* The sequence of token t. */
const rk_sequence *rk_sequence_of(const rk_tokens *all, ptrdiff_t t);
/* The tokens of the longest sequence, at least 1. */
ptrdiff_t rk_longest_sequence(const rk_tokens *all);

/* Applied to x before a product. */
enum {
    RK_AS_IT_IS,
    RK_SHIFTED,      /* token shift by mix [cols]: x * mix + before * (1 - mix) */
    RK_LERPED,       /* x + (before - x) * (mix + more) */
    RK_RELU_SQUARED, /* max(x, 0)^2 */
    RK_TANH,
    RK_SIGMOID,
    RK_RELU_SQUARED_SCALED /* max(x, 0)^2 * (mix + more) */
};

/* Applied to y after a product. */
enum {
    RK_NOTHING,
    RK_ADD,       /* into += y */
    RK_ADD_GATED, /* into += sigmoid(gate) * y */
    RK_ADD_SCALED /* into += gate * y */
};

/* One product of rk_matmul: y[t, r] = scale * sum_k m[r, k] * x[t, k]. `first` is applied to x, `then` to y; y is
 * always overwritten. Tokens of x are `stride` elements apart. gate and into have the shape of y. `before` is the byte
 * offset in the state of the token before the first of a sequence. `more`, shape (tokens, cols), may be NULL. */
typedef struct {
    const rk_matrix *m;
    const void *x;
    ptrdiff_t stride;
    int first;
    const void *mix, *more;
    size_t before;
    void *y;
    int then;
    const void *gate;
    void *into;
} rk_product;

#define RK_MOST_PRODUCTS 8 /* in one shared operation */

/* Bytes of scratch that one product of rk_matmul needs for so many tokens and threads. */
size_t rk_matmul_scratch(const rk_ops *ops, const rk_matrix *m, ptrdiff_t tokens, int threads);

/* Independent products over the same tokens, RK_MOST_PRODUCTS at a time. scratch: the sum of rk_matmul_scratch of each.
 * */
void rk_matmul(const rk_ops *ops, const rk_product *products, int count, const rk_tokens *all, void *scratch,
               int threads);
/* The same. Meanwhile `bytes` bytes at offset `field` of each sequence's state, which are used next, are prefetched by
 * products that have time to spare: those with quantized matrices and several tokens. */
void rk_matmul_ahead(const rk_ops *ops, const rk_product *products, int count, const rk_tokens *all, size_t field,
                     ptrdiff_t bytes, void *scratch, int threads);
void rk_layer_norm(const rk_ops *ops, const void *x, const void *weight, const void *bias, double eps,
                   ptrdiff_t tokens, ptrdiff_t width, void *y, int threads);
/* WKV of a version over all sequences; their states are updated. */
void rk_run_channels(const rk_ops *ops, int version, const rk_channels *p, const rk_tokens *all, int threads);
void rk_run_heads(const rk_ops *ops, int version, const rk_heads *p, const rk_tokens *all, void *scratch, int threads);

/* Elements of a head's vector, padded to whole SIMD vectors. */
static inline ptrdiff_t rk_padded_head(ptrdiff_t size) { return (size + 15) / 16 * 16; }

/* Bytes of one thread's scratch for a matrix-valued state. */
static inline size_t rk_heads_scratch(const rk_ops *ops, int version, ptrdiff_t size)
{
    return (size_t)(rk_padded_head(size) * ops->wkv[version].vectors) * ops->sumsize;
}
void rk_multiply(const rk_ops *ops, void *x, double factor, ptrdiff_t n, int threads);
void rk_token_matrices(const rk_ops *ops, const void *x, const void *m, ptrdiff_t tokens, ptrdiff_t size, void *y,
                       int threads);

/* Most bytes of a row in one step of `panels`: a packed panel and a packed group of tokens fit in the L1 cache.
 * Most bytes of a row that are packed at a time (a run): eight panels fit in the L2 cache. */
#define RK_STEP_BYTES 4096
#define RK_RUN_BYTES 12288

/* Columns of one part of `cols`: all of them, or a multiple of 128, the columns of a bf12 chunk. */
static inline ptrdiff_t rk_even_part(ptrdiff_t cols, size_t itemsize, ptrdiff_t bytes)
{
    const ptrdiff_t most = bytes / (ptrdiff_t)itemsize, parts = (cols + most - 1) / most;
    return parts <= 1 ? cols : ((cols + parts - 1) / parts + 127) / 128 * 128;
}

/* Columns of a run and of a step. */
static inline ptrdiff_t rk_panel_run(ptrdiff_t cols, size_t itemsize)
{
    return rk_even_part(cols, itemsize, RK_RUN_BYTES);
}

static inline ptrdiff_t rk_panel_step(ptrdiff_t cols, size_t itemsize)
{
    return rk_even_part(rk_panel_run(cols, itemsize), itemsize, RK_STEP_BYTES);
}

/* Panels that are packed together. The packed tokens may be evicted from the L2 cache before they are used again; with
 * more panels per block they are read less often, and the writes to the result are longer. */
static inline ptrdiff_t rk_block_panels(ptrdiff_t cols, size_t itemsize)
{
    return 2 * rk_panel_run(cols, itemsize) * (ptrdiff_t)itemsize <= RK_RUN_BYTES ? 16 : 8;
}

/* Most tokens that `columns` multiplies with a transposed matrix together. */
#define RK_COLUMN_TOKENS 4

#endif
