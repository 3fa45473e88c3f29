"""A weight matrix in any storage type."""

from rwkv_cy.kernels.dispatch cimport rk_inputs, rk_matrix, rk_ops, rk_product


# y[t] = m x[t], for dispatch.matmul
cdef rk_product times(const rk_matrix *m, const void *x, void *y) noexcept nogil


cdef class Matrix:
    cdef rk_matrix m
    cdef readonly object array       # owns the memory that m.data points to
    cdef readonly str dtype          # "f32", "f64", "f16", "bf16", "q8", "q6", "q4", "q4n", "bf12"
    cdef readonly bint double_precision
    cdef rk_inputs _inputs
    cdef object _recorded            # owns the memory that _inputs.rows points to

    # y[t] = scale * array @ x[t], for dispatch.matmul, which needs scratch_bytes of scratch
    cdef rk_product times(self, const void *x, void *y) noexcept nogil
    cdef size_t scratch_bytes(self, const rk_ops *ops, Py_ssize_t tokens, int num_threads) noexcept nogil


cdef class Workspace:
    cdef object _memory
    cdef char *start
    cdef readonly size_t size

    cdef int ensure(self, size_t size) except -1


# Bytes rounded up to whole cache lines: the size of a part of a workspace.
cdef size_t padded(size_t size) noexcept nogil
