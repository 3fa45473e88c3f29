"""Instruction sets: which are built and available, which one is active, and its C kernels."""

from rwkv_cy import runtime
from rwkv_cy.errors import ConfigError

cdef extern from "rk.h" nogil:
    enum:
        RK_THREADS

    ctypedef struct rk_table:
        const char *name
        rk_ops f32
        rk_ops f64
        void (*narrow)(const float *, Py_ssize_t, int, unsigned short *, rk_narrowing *) noexcept nogil

    void rk_read(const rk_table *, rk_piece *, Py_ssize_t, int)
    const rk_table *rk_available(int i)
    const char *rk_built(int i)
    void rk_quantize(const float *, Py_ssize_t, Py_ssize_t, int, void *)
    void rk_dequantize(const void *, Py_ssize_t, Py_ssize_t, int, float *)
    void rk_bf12_count(const unsigned short *, Py_ssize_t, long long *)
    Py_ssize_t rk_bf12_pack(const unsigned short *, Py_ssize_t, Py_ssize_t, const unsigned char *, unsigned char *,
                            unsigned short *, Py_ssize_t, long long *)
    void rk_bf12_unpack(const unsigned char *, const unsigned char *, Py_ssize_t, Py_ssize_t, unsigned short *)
    void rk_transpose(const void *, size_t, size_t, size_t, size_t, void *, size_t)
    size_t rk_matmul_scratch(const rk_ops *, const rk_matrix *, Py_ssize_t, int)
    void rk_matmul(const rk_ops *, const rk_product *, int, const rk_tokens *, void *, int)
    void rk_layer_norm(const rk_ops *, const void *, const void *, const void *, double, Py_ssize_t, Py_ssize_t,
                       void *, int)
    void rk_run_channels(const rk_ops *, int, const rk_channels *, const rk_tokens *, int)
    size_t rk_heads_scratch(const rk_ops *, int, Py_ssize_t)
    void rk_run_heads(const rk_ops *, int, const rk_heads *, const rk_tokens *, void *, int)
    void rk_multiply(const rk_ops *, void *, double, Py_ssize_t, int)
    void rk_token_matrices(const rk_ops *, const void *, const void *, Py_ssize_t, Py_ssize_t, void *, int)
    void rk_wake(int)
    void rk_prefetch_rows(const void *, size_t, const long long *, Py_ssize_t)

cdef extern from "bandwidth.h" nogil:
    double rk_read_bandwidth(const rk_table *, size_t, int, double)


cdef const rk_table *_active = NULL


def built_instruction_sets():
    """Names of the instruction sets that this build has kernels for, best first."""
    cdef int i = 0
    result = []
    while rk_built(i) != NULL:
        result.append(rk_built(i).decode("ascii"))
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
    """Activate the kernels of an instruction set; None selects RWKV_CY_ISA if it is set, else the best available.

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
        name = available[0]
    if name not in available:
        raise ConfigError(f"{where}: expected one that this CPU can run ({', '.join(available)}), got {name!r}")
    _active = rk_available(available.index(name))
    return name


def active_instruction_set():
    """Name of the active instruction set."""
    if _active == NULL:
        return select_instruction_set()
    return _active.name.decode("ascii")


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


cdef void quantize(const float *w, Py_ssize_t rows, Py_ssize_t cols, int dtype, void *out) noexcept nogil:
    rk_quantize(w, rows, cols, dtype, out)


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
