"""The time mix of any version: its matrices, and the way from its WKV to the residual stream."""

from rwkv_cy.kernels.dispatch cimport rk_heads, rk_product
from rwkv_cy.kernels.matrix cimport Matrix
from rwkv_cy.kernels.stack cimport Mix, Pass


cdef class BaseTimeMix(Mix):
    cdef readonly Matrix receptance, key, value, output
    cdef readonly Py_ssize_t d_att
    cdef size_t xx                         # byte offset of the previous token in the state

    # The part that versions define: y (tokens, d_att) from normalized x; updates the state of each sequence. If y is
    # NULL, only the states are updated.
    cdef void wkv(self, const Pass *p, const char *x, char *scratch, char *y) noexcept nogil
    # Bytes of scratch that `wkv` needs.
    cdef size_t wkv_scratch(self, const Pass *p) noexcept nogil
    # Products before a WKV, which meanwhile prefetch what the layer before has not prefetched of its states.
    cdef void multiply(self, const Pass *p, const rk_product *products, int count, char *scratch) noexcept nogil


# The heads of a matrix-valued state: sizes, offset of att_kv, GroupNorm; without the address of a result.
cdef rk_heads heads_of(BaseTimeMix mix, config, offsets, parameters) except *
