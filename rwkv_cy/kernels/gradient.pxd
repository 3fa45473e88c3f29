"""Declarations of the recorded pass and of the backward pass: mixes and layers.

In names, d stands for the gradient of a loss with respect to what follows: dx has the shape of x.
"""

from rwkv_cy.kernels.dispatch cimport rk_shift_gradient
from rwkv_cy.kernels.matrix cimport Matrix
from rwkv_cy.kernels.stack cimport Layer, Mix, Pass
from rwkv_cy.kernels.weight cimport Backward, Weight


cdef enum:
    MOST_WEIGHTS = 16       # of a mix


cdef class MixGradient:
    cdef readonly list names               # short names of the parameters that get a gradient
    cdef readonly list quantized           # those of quantized matrices
    cdef dict weights                      # by name; without low-rank factors
    cdef list _all_weights                 # owns those of the next line
    cdef void *of_weights[MOST_WEIGHTS]
    cdef int weight_count
    cdef readonly Py_ssize_t d_model
    cdef readonly size_t itemsize
    cdef readonly size_t shared_row        # as of the mix
    cdef size_t xx                         # of the token shift: see the constructor
    cdef bint lerped

    cdef int parameter(self, name) except -1
    cdef Weight weight(self, Matrix matrix, name, bint in_out=*, size_t offset=*)

    # Bytes of scratch that one product, forward or backward, needs.
    cdef size_t weights_scratch(self, const Pass *p) noexcept nogil
    # y = W shift(x): a product with a token shift of x; `more` may be NULL.
    cdef void forward_shifted(self, const Pass *p, Weight weight, const char *x, const char *mix, const char *more,
                              char *y, char *rest) noexcept nogil
    # Back through it: d_shifted is the gradient of the shifted tokens. Returns it for `backward_shifts`, with those of
    # `mix`, whose index is `parameter`, and of `more`: d_more may be NULL. buffer: scratch (tokens, d_model).
    cdef rk_shift_gradient backward_shifted(self, const Backward *b, Weight weight, const char *x, const char *mix,
                                            int parameter, const char *more, const char *dy, char *d_shifted,
                                            char *d_more, char *buffer, char *rest) noexcept nogil
    # Add the gradient of the last token in the state to dx, and clear it.
    cdef void begin_backward(self, const Pass *p, char *dx) noexcept nogil
    # Add the gradients of all token shifts to dx and to the state.
    cdef void backward_shifts(self, const Pass *p, const rk_shift_gradient *shifts, int count, const char *x,
                              char *dx) noexcept nogil

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
