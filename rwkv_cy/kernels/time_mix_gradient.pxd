"""The recorded pass and the backward pass of the time mix of any version: its matrices, and its output."""

from rwkv_cy.kernels.gradient cimport Backward, MixGradient, Weight
from rwkv_cy.kernels.stack cimport Arena, Pass
from rwkv_cy.kernels.time_mix cimport BaseTimeMix


cdef class BaseTimeMixGradient(MixGradient):
    cdef BaseTimeMix base
    cdef Weight receptance, key, value, output
    cdef Py_ssize_t d_att

    # Scratch (tokens, d_att) and (tokens, d_model).
    cdef char *take_att(self, Arena *arena, const Pass *p) noexcept nogil
    cdef char *take_model(self, Arena *arena, const Pass *p) noexcept nogil
    # Scratch of a WKV with a matrix-valued state, forward and backward, and of products.
    cdef char *take_rest(self, Arena *arena, const Pass *p, int version, Py_ssize_t head_size) noexcept nogil
    # y += O gated;  mixed: scratch (tokens, d_model).
    cdef void add_output(self, const Pass *p, const char *gated, char *mixed, char *y, char *rest) noexcept nogil


# Add `count` sums over all tokens, (count, width), to the gradients of these parameters, unless they are frozen; the
# index -1 stands for a parameter that the layer does not have.
cdef void add_sums(const Backward *b, const int *parameters, int count, const char *sums, Py_ssize_t width,
                   size_t itemsize) noexcept nogil
