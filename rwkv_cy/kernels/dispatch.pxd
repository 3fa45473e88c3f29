"""Cython declarations of the C kernels: types, and one function for each driver."""

from libc.stdint cimport uint64_t

cdef extern from "rk.h" nogil:
    enum:
        RK_F32
        RK_F64
        RK_F16
        RK_BF16
        RK_Q8
        RK_Q4
        RK_BF12
        RK_Q6
        RK_Q4N

    ctypedef struct rk_inputs:
        float *rows
        Py_ssize_t capacity
        Py_ssize_t count

    ctypedef struct rk_matrix:
        const void *data
        Py_ssize_t rows
        Py_ssize_t cols
        int dtype
        double scale
        int transposed
        int rounded
        rk_inputs *inputs
        Py_ssize_t escapes

    ctypedef struct rk_piece:
        const void *data
        Py_ssize_t bytes
        uint64_t sum

    ctypedef struct rk_sequence:
        Py_ssize_t begin
        Py_ssize_t end
        const char *read
        char *write
        Py_ssize_t stride

    ctypedef struct rk_channels:
        Py_ssize_t width

    ctypedef struct rk_heads:
        Py_ssize_t count
        Py_ssize_t size
        size_t kv
        const void *norm_weight
        const void *norm_bias
        double eps
        void *y

    ctypedef struct rk_tokens:
        Py_ssize_t count
        const rk_sequence *sequences
        Py_ssize_t sequence_count

    enum:
        RK_AS_IT_IS
        RK_SHIFTED
        RK_LERPED
        RK_RELU_SQUARED
        RK_TANH
        RK_SIGMOID
        RK_RELU_SQUARED_SCALED

    enum:
        RK_NOTHING
        RK_ADD
        RK_ADD_GATED
        RK_ADD_SCALED

    ctypedef struct rk_product:
        const rk_matrix *m
        const void *x
        Py_ssize_t stride
        int first
        const void *mix
        const void *more
        size_t before
        void *y
        int then
        const void *gate
        void *into

    ctypedef struct rk_narrowing:
        double largest
        double squared_error
        double squares
        unsigned long long nan
        unsigned long long infinite
        unsigned long long overflowed

    ctypedef struct rk_ops:
        Py_ssize_t lanes
        void (*add_scaled)(void *y, const void *gate, const void *x, Py_ssize_t begin, Py_ssize_t end) noexcept nogil
        int (*all_finite)(const void *x, Py_ssize_t n) noexcept nogil

    ctypedef struct rk_shift_gradient:
        const void *mix
        const void *more
        const void *d
        void *d_mix
        void *d_more

    ctypedef struct rk_adamw:
        double scale
        double beta1
        double beta2
        double epsilon
        double keep
        double step
        double root

cdef extern from "nuclei.h" nogil:
    enum:
        RK_MOST_VALUES

    ctypedef struct rk_nucleus:
        const float *values
        Py_ssize_t n
        double top_p
        float scale
        int keep_equals
        int *places
        Py_ssize_t count
        float largest

cdef const rk_ops *active_ops(bint double_precision) except NULL

cdef int read_pieces(rk_piece *pieces, Py_ssize_t count, int num_threads) except -1
cdef int narrow(const float *x, Py_ssize_t n, int dtype, unsigned short *out, rk_narrowing *sums) except -1
# Copies n numbers, and returns whether all are finite.
cdef bint copy_finite(const float *x, Py_ssize_t n, float *copy) except? -1
# nuclei.h describes these.
cdef size_t nuclei_scratch(Py_ssize_t n, int num_threads) noexcept nogil
cdef int find_nuclei(rk_nucleus *rows, Py_ssize_t count, float *scratch, int num_threads) except -1
cdef void quantize(const float *w, Py_ssize_t rows, Py_ssize_t cols, int dtype, const float *importance,
                   void *out) noexcept nogil
cdef void dequantize(const void *packed, Py_ssize_t rows, Py_ssize_t cols, int dtype, float *w) noexcept nogil
cdef void bf12_count(const unsigned short *words, Py_ssize_t n, long long *counts) noexcept nogil
cdef Py_ssize_t bf12_pack(const unsigned short *words, Py_ssize_t rows, Py_ssize_t cols, const unsigned char *table,
                          unsigned char *chunks, unsigned short *escapes, Py_ssize_t capacity,
                          long long *ends) noexcept nogil
cdef void bf12_unpack(const unsigned char *table, const unsigned char *chunks, Py_ssize_t rows, Py_ssize_t cols,
                      unsigned short *words) noexcept nogil
cdef void transpose(const void *array, size_t itemsize, size_t rows, size_t cols, size_t stride, size_t out_stride,
                    void *out) noexcept nogil
cdef size_t matmul_scratch(const rk_ops *ops, const rk_matrix *m, Py_ssize_t tokens, int num_threads) noexcept nogil
cdef void matmul(const rk_ops *ops, const rk_product *products, int count, const rk_tokens *all,
                 void *scratch, int num_threads) noexcept nogil
cdef void matmul_ahead(const rk_ops *ops, const rk_product *products, int count, const rk_tokens *all, size_t field,
                       Py_ssize_t size, void *scratch, int num_threads) noexcept nogil
cdef void layer_norm(const rk_ops *ops, const void *x, const void *weight, const void *bias, double eps,
                     Py_ssize_t tokens, Py_ssize_t width, int num_threads, void *y) noexcept nogil
cdef void run_channels(const rk_ops *ops, int version, const rk_channels *p, const rk_tokens *all,
                       int num_threads) noexcept nogil
cdef size_t heads_scratch(const rk_ops *ops, int version, Py_ssize_t size, int num_threads) noexcept nogil
cdef void run_heads(const rk_ops *ops, int version, const rk_heads *p, const rk_tokens *all, void *scratch,
                    int num_threads) noexcept nogil
cdef void token_matrices(const rk_ops *ops, const void *x, const void *m, Py_ssize_t tokens, Py_ssize_t size,
                         int num_threads, void *y) noexcept nogil
cdef void prefetch_rows(const void *data, size_t row_bytes, const long long *ids, Py_ssize_t count) noexcept nogil
cdef void multiply(const rk_ops *ops, double factor, Py_ssize_t n, int num_threads, void *x) noexcept nogil
cdef bint all_finite(const rk_ops *ops, const void *x, Py_ssize_t n) noexcept nogil

# Of the backward pass; gradients.h describes them.
cdef void layer_norm_gradient(const rk_ops *ops, const void *x, const void *weight, double eps, const void *dy,
                              Py_ssize_t tokens, Py_ssize_t width, void *dx, void *d_weight, void *d_bias,
                              void *moments, int num_threads) noexcept nogil
cdef void shift_gradients(const rk_ops *ops, const rk_shift_gradient *shifts, int count, bint lerped, const void *x,
                          size_t before, const rk_tokens *all, Py_ssize_t width, void *dx,
                          int num_threads) noexcept nogil
cdef void shift_tokens(const rk_ops *ops, bint lerped, const void *x, const void *mix, const void *more, size_t before,
                       const rk_tokens *all, Py_ssize_t width, void *y, int num_threads) noexcept nogil
cdef void take_last(const rk_ops *ops, const rk_tokens *all, Py_ssize_t width, size_t field, void *dx) noexcept nogil
cdef void gated_gradient(const rk_ops *ops, const void *gate, const void *x, const void *dy, Py_ssize_t n, void *dx,
                         void *d_gate, int num_threads) noexcept nogil
cdef void relu_squared(const rk_ops *ops, const void *x, Py_ssize_t n, void *y, int num_threads) noexcept nogil
cdef void relu_squared_gradient(const rk_ops *ops, const void *x, Py_ssize_t n, void *d, int num_threads) noexcept nogil
cdef void add(const rk_ops *ops, const void *x, Py_ssize_t n, void *y, int num_threads) noexcept nogil
cdef size_t channels_gradient_scratch(const rk_ops *ops, const rk_tokens *all, int num_threads) noexcept nogil
cdef void run_channels_gradient(const rk_ops *ops, int version, const rk_channels *p, const rk_tokens *all,
                                void *scratch, int num_threads) noexcept nogil
cdef void to_floats(const rk_matrix *m, void *out, int num_threads) noexcept nogil
cdef size_t add_product_scratch(const rk_ops *ops, Py_ssize_t rows, const rk_matrix *m, int num_threads) noexcept nogil
cdef void add_product(const rk_ops *ops, const void *x, Py_ssize_t rows, const rk_matrix *m, void *g, void *scratch,
                      int num_threads) noexcept nogil
cdef size_t outer_scratch(const rk_ops *ops, Py_ssize_t a_width, Py_ssize_t b_width, Py_ssize_t tokens,
                          int num_threads) noexcept nogil
cdef void outer(const rk_ops *ops, const void *a, Py_ssize_t a_width, Py_ssize_t a_stride, const void *b,
                Py_ssize_t b_width, Py_ssize_t tokens, double scale, void *g, void *scratch,
                int num_threads) noexcept nogil
# y += gate * x for n elements, on this thread.
cdef void add_scaled(const rk_ops *ops, const void *gate, const void *x, Py_ssize_t n, void *y) noexcept nogil
cdef void cross_entropy(const rk_ops *ops, void *logits, const long long *targets, const double *weights,
                        double l2_wrap, Py_ssize_t tokens, Py_ssize_t vocab_size, double *losses,
                        int num_threads) noexcept nogil
# The optimiser; optimiser.h describes it.
cdef Py_ssize_t square_sums(Py_ssize_t n) noexcept nogil
cdef void squares(const rk_ops *ops, const void *x, Py_ssize_t n, double *sums, int num_threads) noexcept nogil
cdef void adamw_update(const rk_ops *ops, const rk_adamw *options, const void *gradient, void *first, void *second,
                       void *values, Py_ssize_t n, int num_threads) noexcept nogil
# Of a matrix-valued state and of low-rank products; gradients_heads.h describes them.
cdef size_t heads_gradient_scratch(const rk_ops *ops, int version, Py_ssize_t size, const rk_tokens *all,
                                   int num_threads) noexcept nogil
cdef void run_heads_gradient(const rk_ops *ops, int version, const rk_heads *p, const rk_tokens *all, void *parts,
                             void *scratch, int num_threads) noexcept nogil
cdef void activate(const rk_ops *ops, int activation, const void *x, Py_ssize_t n, void *y,
                   int num_threads) noexcept nogil
cdef void activate_gradient(const rk_ops *ops, int activation, const void *y, Py_ssize_t n, void *d,
                            int num_threads) noexcept nogil
