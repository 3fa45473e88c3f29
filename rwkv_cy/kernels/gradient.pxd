"""Declarations of the recorded pass and of the backward pass: mixes and layers.

In names, d stands for the gradient of a loss with respect to what follows: dx has the shape of x.
"""

from rwkv_cy.kernels.matrix cimport Matrix
from rwkv_cy.kernels.stack cimport Layer, Mix, Pass
from rwkv_cy.kernels.weight cimport Backward, Weight


cdef class MixGradient:
    cdef readonly list names               # short names of the parameters that get a gradient
    cdef readonly list quantized           # those of quantized matrices
    cdef dict weights                      # by name; without low-rank factors
    cdef readonly Py_ssize_t d_model
    cdef readonly size_t itemsize
    cdef readonly size_t shared_row        # as of the mix

    cdef int parameter(self, name) except -1
    cdef Weight weight(self, Matrix matrix, name, bint in_out=*, size_t offset=*)

    # Bytes that `record` saves for `backward`; and bytes of scratch that both need.
    cdef size_t saved(self, const Pass *p) noexcept nogil
    cdef size_t scratch(self, const Pass *p) noexcept nogil
    # y += mix(x), updating the states, as Mix.run does.
    cdef void record(self, const Pass *p, const char *x, char *saved, char *scratch, char *y) noexcept nogil
    # dx += gradient of x; adds to gradients, updates the gradients of the states.
    cdef void backward(self, const Backward *b, const char *x, const char *saved, const char *dy, char *scratch,
                       char *dx) noexcept nogil


cdef class LayerGradient:
    cdef readonly Layer layer
    cdef readonly MixGradient time_mix, channel_mix
    cdef readonly tuple names              # of all parameters that get a gradient: norms, time mix, channel mix
    cdef int of_time_mix                   # how many are of the time mix

    cdef size_t saved(self, const Pass *p) noexcept nogil
    cdef size_t scratch(self, const Pass *p) noexcept nogil
    cdef void norm(self, const Pass *p, const char *x, const char *weight, const char *bias, char *y) noexcept nogil
    cdef void norm_backward(self, const Backward *b, const char *x, const char *weight, const char *dy, char *moments,
                            int first, char *dx) noexcept nogil
    cdef void record(self, const Pass *p, char *x, char *saved, char *scratch) noexcept nogil
    cdef void backward(self, const Backward *b, const char *saved, char *scratch, char *dx) noexcept nogil
