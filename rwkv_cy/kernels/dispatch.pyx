"""Instruction sets: which are built and available, which one is active, and its C kernels."""

from rwkv_cy import runtime
from rwkv_cy.errors import ConfigError

cdef extern from "rk.h" nogil:
    enum:
        RK_THREADS
        RK_FAMILIES

    ctypedef struct rk_table:
        const char *name
        const char **families
        rk_ops f32
        rk_ops f64
        void (*narrow)(const float *, Py_ssize_t, int, unsigned short *, rk_narrowing *) noexcept nogil
        int (*copy_largest)(const float *, Py_ssize_t, float *, float *) noexcept nogil

    void rk_read(const rk_table *, rk_piece *, Py_ssize_t, int)
    const rk_table *rk_available(int i)
    int rk_default()
    const char *rk_built(int i)
    const char *rk_left_out(int i)
    void rk_quantize(const float *, Py_ssize_t, Py_ssize_t, int, const float *, void *)
    void rk_dequantize(const void *, Py_ssize_t, Py_ssize_t, int, float *)
    void rk_bf12_count(const unsigned short *, Py_ssize_t, long long *)
    Py_ssize_t rk_bf12_pack(const unsigned short *, Py_ssize_t, Py_ssize_t, const unsigned char *, unsigned char *,
                            unsigned short *, Py_ssize_t, long long *)
    void rk_bf12_unpack(const unsigned char *, const unsigned char *, Py_ssize_t, Py_ssize_t, unsigned short *)
    void rk_transpose(const void *, size_t, size_t, size_t, size_t, void *, size_t)
    size_t rk_matmul_scratch(const rk_ops *, const rk_matrix *, Py_ssize_t, int)
    void rk_matmul(const rk_ops *, const rk_product *, int, const rk_tokens *, void *, int)
    void rk_matmul_ahead(const rk_ops *, const rk_product *, int, const rk_tokens *, size_t, Py_ssize_t, void *, int)
    void rk_layer_norm(const rk_ops *, const void *, const void *, const void *, double, Py_ssize_t, Py_ssize_t,
                       void *, int)
    void rk_run_channels(const rk_ops *, int, const rk_channels *, const rk_tokens *, int)
    size_t rk_heads_scratch(const rk_ops *, int, Py_ssize_t)
    void rk_run_heads(const rk_ops *, int, const rk_heads *, const rk_tokens *, void *, int)
    void rk_multiply(const rk_ops *, void *, double, Py_ssize_t, int)
    void rk_token_matrices(const rk_ops *, const void *, const void *, Py_ssize_t, Py_ssize_t, void *, int)
    void rk_wake(int)
    void rk_prefetch_rows(const void *, size_t, const long long *, Py_ssize_t)

cdef extern from "nuclei.h" nogil:
    size_t rk_nuclei_scratch(Py_ssize_t, int)
    void rk_find_nuclei(const rk_table *, rk_nucleus *, Py_ssize_t, float *, int)


cdef extern from "bandwidth.h" nogil:
    double rk_read_bandwidth(const rk_table *, size_t, int, double)


cdef extern from "gradients.h" nogil:
    void rk_layer_norm_gradient(const rk_ops *, const void *, const void *, double, const void *, Py_ssize_t,
                                Py_ssize_t, void *, void *, void *, void *, int)
    void rk_shift_gradients(const rk_ops *, const rk_shift_gradient *, int, int, const void *, size_t,
                            const rk_tokens *, Py_ssize_t, void *, int)
    void rk_shift_tokens(const rk_ops *, int, const void *, const void *, const void *, size_t, const rk_tokens *,
                         Py_ssize_t, void *, int)
    void rk_take_last(const rk_ops *, const rk_tokens *, Py_ssize_t, size_t, void *)
    void rk_gated_gradient(const rk_ops *, const void *, const void *, const void *, Py_ssize_t, void *, void *, int)
    void rk_relu_squared(const rk_ops *, const void *, Py_ssize_t, void *, int)
    void rk_relu_squared_gradient(const rk_ops *, const void *, Py_ssize_t, void *, int)
    void rk_add(const rk_ops *, const void *, Py_ssize_t, void *, int)
    void rk_cross_entropy(const rk_ops *, void *, const long long *, const double *, double, Py_ssize_t, Py_ssize_t,
                          double *, int)
    size_t rk_channels_gradient_scratch(const rk_ops *, const rk_tokens *, int)
    void rk_run_channels_gradient(const rk_ops *, int, const rk_channels *, const rk_tokens *, void *, int)
    void rk_to_floats(const rk_matrix *, void *, int)
    size_t rk_add_product_scratch(const rk_ops *, Py_ssize_t, const rk_matrix *, int)
    void rk_add_product(const rk_ops *, const void *, Py_ssize_t, const rk_matrix *, void *, void *, int)
    size_t rk_outer_scratch(const rk_ops *, Py_ssize_t, Py_ssize_t, Py_ssize_t, int)
    void rk_outer(const rk_ops *, const void *, Py_ssize_t, Py_ssize_t, const void *, Py_ssize_t, Py_ssize_t, double,
                  void *, void *, int)


cdef extern from "optimiser.h" nogil:
    Py_ssize_t rk_square_sums(Py_ssize_t)
    void rk_adamw_update(const rk_ops *, const rk_adamw *, const void *, void *, void *, void *, Py_ssize_t, int)
    void rk_squares(const rk_ops *, const void *, Py_ssize_t, double *, int)


cdef extern from "gradients_heads.h" nogil:
    size_t rk_heads_gradient_scratch(const rk_ops *, int, Py_ssize_t, Py_ssize_t)
    void rk_run_heads_gradient(const rk_ops *, int, const rk_heads *, const rk_tokens *, void *, void *, int)
    Py_ssize_t rk_longest_sequence(const rk_tokens *)
    void rk_activate(const rk_ops *, int, const void *, Py_ssize_t, void *, int)
    void rk_activate_gradient(const rk_ops *, int, const void *, Py_ssize_t, void *, int)


cdef const rk_table *_active = NULL
rk_available(0)  # fills in the tables, while the lock of this import keeps other threads away


def built_instruction_sets():
    """Names of the instruction sets that this build has kernels for, best first."""
    cdef int i = 0
    result = []
    while rk_built(i) != NULL:
        result.append(rk_built(i).decode("ascii"))
        i += 1
    return tuple(result)


def left_out_instruction_sets():
    """Names of the instruction sets for which the compiler of this build was too old."""
    cdef int i = 0
    result = []
    while rk_left_out(i) != NULL:
        result.append(rk_left_out(i).decode("ascii"))
        i += 1
    return tuple(result)


def available_instruction_sets():
    """Names of the instruction sets that are built and that this CPU supports, best first."""
    cdef int i = 0
    result = []
    while rk_available(i) != NULL:
        result.append(rk_available(i).name.decode("ascii"))
        i += 1
    return tuple(result)


def select_instruction_set(name=None):
    """Activate the kernels of an instruction set; None selects RWKV_CY_ISA if it is set, else the fastest for this CPU.

    Returns
    -------
    str
        The name of the active instruction set.

    Raises
    ------
    ConfigError
        If the instruction set is not built, or this CPU does not support it.
    """
    global _active
    where = "instruction set"
    if name is None:
        name = runtime.instruction_set_override()
        where = "RWKV_CY_ISA"
    available = available_instruction_sets()
    if name is None:
        name = available[rk_default()]
    if name not in available:
        raise ConfigError(f"{where}: expected one that this CPU can run ({', '.join(available)}), got {name!r}")
    _active = rk_available(available.index(name))
    return name


def active_instruction_set():
    """Name of the active instruction set."""
    if _active == NULL:
        return select_instruction_set()
    return _active.name.decode("ascii")


def kernel_families():
    """The instruction set that each family of kernels comes from; None for a family that is not available.

    Returns
    -------
    dict of str to str or None
        By the name of the family.
    """
    if _active == NULL:
        select_instruction_set()
    names = ("floats", "quantized", "bf16", "int8 tiles")
    return {
        names[i]: None if _active.families[i] == NULL else _active.families[i].decode("ascii")
        for i in range(RK_FAMILIES)
    }


def thread_backend():
    """Thread backend of this build: "pool" (the package's own), "openmp", or "none" (one thread)."""
    return ("none", "pool", "openmp")[RK_THREADS]


def wake(int num_threads):
    """Wake sleeping threads ahead of work for `num_threads` threads, because waking takes a while."""
    rk_wake(num_threads)


def read_bandwidth(size_t nbytes, int num_threads, double seconds):
    """Measure how many bytes a second threads read from memory, in a quick sample.

    Parameters
    ----------
    nbytes : int
        Memory that is allocated and read: more than the caches hold.
    num_threads : int
    seconds : float
        How long it is read, twice at least.

    Returns
    -------
    float
        The best of several passes; 0 if there is too little memory for a sample.
    """
    cdef double speed
    if _active == NULL:
        select_instruction_set()
    with nogil:
        speed = rk_read_bandwidth(_active, nbytes, num_threads, seconds)
    return speed


cdef const rk_ops *active_ops(bint double_precision) except NULL:
    if _active == NULL:
        select_instruction_set()
    return &_active.f64 if double_precision else &_active.f32


cdef int read_pieces(rk_piece *pieces, Py_ssize_t count, int num_threads) except -1:
    if _active == NULL:
        select_instruction_set()
    with nogil:
        rk_read(_active, pieces, count, num_threads)
    return 0


cdef int narrow(const float *x, Py_ssize_t n, int dtype, unsigned short *out, rk_narrowing *sums) except -1:
    if _active == NULL:
        select_instruction_set()
    with nogil:
        _active.narrow(x, n, dtype, out, sums)
    return 0


cdef bint copy_finite(const float *x, Py_ssize_t n, float *copy) except? -1:
    cdef float largest
    if _active == NULL:
        select_instruction_set()
    with nogil:
        return _active.copy_largest(x, n, copy, &largest)


cdef size_t nuclei_scratch(Py_ssize_t n, int num_threads) noexcept nogil:
    return rk_nuclei_scratch(n, num_threads)


cdef int find_nuclei(rk_nucleus *rows, Py_ssize_t count, float *scratch, int num_threads) except -1:
    if _active == NULL:
        select_instruction_set()
    with nogil:
        rk_find_nuclei(_active, rows, count, scratch, num_threads)
    return 0


cdef void quantize(const float *w, Py_ssize_t rows, Py_ssize_t cols, int dtype, const float *importance,
                   void *out) noexcept nogil:
    rk_quantize(w, rows, cols, dtype, importance, out)


cdef void dequantize(const void *packed, Py_ssize_t rows, Py_ssize_t cols, int dtype, float *w) noexcept nogil:
    rk_dequantize(packed, rows, cols, dtype, w)


cdef void bf12_count(const unsigned short *words, Py_ssize_t n, long long *counts) noexcept nogil:
    rk_bf12_count(words, n, counts)


cdef Py_ssize_t bf12_pack(const unsigned short *words, Py_ssize_t rows, Py_ssize_t cols, const unsigned char *table,
                          unsigned char *chunks, unsigned short *escapes, Py_ssize_t capacity,
                          long long *ends) noexcept nogil:
    return rk_bf12_pack(words, rows, cols, table, chunks, escapes, capacity, ends)


cdef void bf12_unpack(const unsigned char *table, const unsigned char *chunks, Py_ssize_t rows, Py_ssize_t cols,
                      unsigned short *words) noexcept nogil:
    rk_bf12_unpack(table, chunks, rows, cols, words)


cdef void transpose(const void *array, size_t itemsize, size_t rows, size_t cols, size_t stride, size_t out_stride,
                    void *out) noexcept nogil:
    rk_transpose(array, itemsize, rows, cols, stride, out, out_stride)


cdef size_t matmul_scratch(const rk_ops *ops, const rk_matrix *m, Py_ssize_t tokens, int num_threads) noexcept nogil:
    return rk_matmul_scratch(ops, m, tokens, num_threads)


cdef void matmul(const rk_ops *ops, const rk_product *products, int count, const rk_tokens *all,
                 void *scratch, int num_threads) noexcept nogil:
    rk_matmul(ops, products, count, all, scratch, num_threads)


cdef void matmul_ahead(const rk_ops *ops, const rk_product *products, int count, const rk_tokens *all, size_t field,
                       Py_ssize_t size, void *scratch, int num_threads) noexcept nogil:
    rk_matmul_ahead(ops, products, count, all, field, size, scratch, num_threads)


cdef void layer_norm(const rk_ops *ops, const void *x, const void *weight, const void *bias, double eps,
                     Py_ssize_t tokens, Py_ssize_t width, int num_threads, void *y) noexcept nogil:
    rk_layer_norm(ops, x, weight, bias, eps, tokens, width, y, num_threads)


cdef void run_channels(const rk_ops *ops, int version, const rk_channels *p, const rk_tokens *all,
                       int num_threads) noexcept nogil:
    rk_run_channels(ops, version, p, all, num_threads)


cdef size_t heads_scratch(const rk_ops *ops, int version, Py_ssize_t size, int num_threads) noexcept nogil:
    return <size_t>num_threads * rk_heads_scratch(ops, version, size)


cdef void run_heads(const rk_ops *ops, int version, const rk_heads *p, const rk_tokens *all, void *scratch,
                    int num_threads) noexcept nogil:
    rk_run_heads(ops, version, p, all, scratch, num_threads)


cdef void token_matrices(const rk_ops *ops, const void *x, const void *m, Py_ssize_t tokens, Py_ssize_t size,
                         int num_threads, void *y) noexcept nogil:
    rk_token_matrices(ops, x, m, tokens, size, y, num_threads)


cdef void prefetch_rows(const void *data, size_t row_bytes, const long long *ids, Py_ssize_t count) noexcept nogil:
    rk_prefetch_rows(data, row_bytes, ids, count)


cdef void multiply(const rk_ops *ops, double factor, Py_ssize_t n, int num_threads, void *x) noexcept nogil:
    rk_multiply(ops, x, factor, n, num_threads)


cdef bint all_finite(const rk_ops *ops, const void *x, Py_ssize_t n) noexcept nogil:
    return ops.all_finite(x, n)


cdef void layer_norm_gradient(const rk_ops *ops, const void *x, const void *weight, double eps, const void *dy,
                              Py_ssize_t tokens, Py_ssize_t width, void *dx, void *d_weight, void *d_bias,
                              void *moments, int num_threads) noexcept nogil:
    rk_layer_norm_gradient(ops, x, weight, eps, dy, tokens, width, dx, d_weight, d_bias, moments, num_threads)


cdef void shift_gradients(const rk_ops *ops, const rk_shift_gradient *shifts, int count, bint lerped, const void *x,
                          size_t before, const rk_tokens *all, Py_ssize_t width, void *dx,
                          int num_threads) noexcept nogil:
    rk_shift_gradients(ops, shifts, count, lerped, x, before, all, width, dx, num_threads)


cdef void shift_tokens(const rk_ops *ops, bint lerped, const void *x, const void *mix, const void *more, size_t before,
                       const rk_tokens *all, Py_ssize_t width, void *y, int num_threads) noexcept nogil:
    rk_shift_tokens(ops, lerped, x, mix, more, before, all, width, y, num_threads)


cdef void take_last(const rk_ops *ops, const rk_tokens *all, Py_ssize_t width, size_t field, void *dx) noexcept nogil:
    rk_take_last(ops, all, width, field, dx)


cdef void gated_gradient(const rk_ops *ops, const void *gate, const void *x, const void *dy, Py_ssize_t n, void *dx,
                         void *d_gate, int num_threads) noexcept nogil:
    rk_gated_gradient(ops, gate, x, dy, n, dx, d_gate, num_threads)


cdef void relu_squared(const rk_ops *ops, const void *x, Py_ssize_t n, void *y, int num_threads) noexcept nogil:
    rk_relu_squared(ops, x, n, y, num_threads)


cdef void relu_squared_gradient(const rk_ops *ops, const void *x, Py_ssize_t n, void *d,
                                int num_threads) noexcept nogil:
    rk_relu_squared_gradient(ops, x, n, d, num_threads)


cdef void add(const rk_ops *ops, const void *x, Py_ssize_t n, void *y, int num_threads) noexcept nogil:
    rk_add(ops, x, n, y, num_threads)


cdef size_t channels_gradient_scratch(const rk_ops *ops, const rk_tokens *all, int num_threads) noexcept nogil:
    return rk_channels_gradient_scratch(ops, all, num_threads)


cdef void run_channels_gradient(const rk_ops *ops, int version, const rk_channels *p, const rk_tokens *all,
                                void *scratch, int num_threads) noexcept nogil:
    rk_run_channels_gradient(ops, version, p, all, scratch, num_threads)


cdef void to_floats(const rk_matrix *m, void *out, int num_threads) noexcept nogil:
    rk_to_floats(m, out, num_threads)


cdef size_t add_product_scratch(const rk_ops *ops, Py_ssize_t rows, const rk_matrix *m, int num_threads) noexcept nogil:
    return rk_add_product_scratch(ops, rows, m, num_threads)


cdef void add_product(const rk_ops *ops, const void *x, Py_ssize_t rows, const rk_matrix *m, void *g, void *scratch,
                      int num_threads) noexcept nogil:
    rk_add_product(ops, x, rows, m, g, scratch, num_threads)


cdef size_t outer_scratch(const rk_ops *ops, Py_ssize_t a_width, Py_ssize_t b_width, Py_ssize_t tokens,
                          int num_threads) noexcept nogil:
    return rk_outer_scratch(ops, a_width, b_width, tokens, num_threads)


cdef void outer(const rk_ops *ops, const void *a, Py_ssize_t a_width, Py_ssize_t a_stride, const void *b,
                Py_ssize_t b_width, Py_ssize_t tokens, double scale, void *g, void *scratch,
                int num_threads) noexcept nogil:
    rk_outer(ops, a, a_width, a_stride, b, b_width, tokens, scale, g, scratch, num_threads)


cdef void add_scaled(const rk_ops *ops, const void *gate, const void *x, Py_ssize_t n, void *y) noexcept nogil:
    ops.add_scaled(y, gate, x, 0, n)


cdef void cross_entropy(const rk_ops *ops, void *logits, const long long *targets, const double *weights,
                        double l2_wrap, Py_ssize_t tokens, Py_ssize_t vocab_size, double *losses,
                        int num_threads) noexcept nogil:
    rk_cross_entropy(ops, logits, targets, weights, l2_wrap, tokens, vocab_size, losses, num_threads)


cdef Py_ssize_t square_sums(Py_ssize_t n) noexcept nogil:
    return rk_square_sums(n)


cdef void squares(const rk_ops *ops, const void *x, Py_ssize_t n, double *sums, int num_threads) noexcept nogil:
    rk_squares(ops, x, n, sums, num_threads)


cdef void adamw_update(const rk_ops *ops, const rk_adamw *options, const void *gradient, void *first, void *second,
                       void *values, Py_ssize_t n, int num_threads) noexcept nogil:
    rk_adamw_update(ops, options, gradient, first, second, values, n, num_threads)


cdef size_t heads_gradient_scratch(const rk_ops *ops, int version, Py_ssize_t size, const rk_tokens *all,
                                   int num_threads) noexcept nogil:
    return <size_t>num_threads * rk_heads_gradient_scratch(ops, version, size, rk_longest_sequence(all))


cdef void run_heads_gradient(const rk_ops *ops, int version, const rk_heads *p, const rk_tokens *all, void *parts,
                             void *scratch, int num_threads) noexcept nogil:
    rk_run_heads_gradient(ops, version, p, all, parts, scratch, num_threads)


cdef void activate(const rk_ops *ops, int activation, const void *x, Py_ssize_t n, void *y,
                   int num_threads) noexcept nogil:
    rk_activate(ops, activation, x, n, y, num_threads)


cdef void activate_gradient(const rk_ops *ops, int activation, const void *y, Py_ssize_t n, void *d,
                            int num_threads) noexcept nogil:
    rk_activate_gradient(ops, activation, y, n, d, num_threads)
