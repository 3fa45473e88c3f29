"""Declarations of the recorded pass and of the backward pass: weights, mixes, layers.

In names, d stands for the gradient of a loss with respect to what follows: dx has the shape of x.
"""

from rwkv_cy.kernels.dispatch cimport rk_matrix, rk_product
from rwkv_cy.kernels.matrix cimport Matrix
from rwkv_cy.kernels.stack cimport Layer, Mix, Pass


# One batch of tokens on its way back through a layer. `read` of a sequence is the layer's row of the state before its
# first token; `write` is the gradient of that row: of the state after the last token on entry, before the first one on
# return.
cdef struct Backward:
    Pass forward          # `shared` holds what the recorded pass has written there
    char **gradients      # of the parameters, in the order of `names`, added to; NULL for one that is frozen
    char *d_shared        # gradient of `shared`


cdef class Weight:
    cdef readonly Matrix matrix            # owns the memory that m points to
    cdef rk_matrix m
    cdef bint decoded                      # the matrix is quantized: dequantized into scratch for every product
    cdef bint in_out                       # shape of the gradient: (inputs, outputs), else (outputs, inputs)
    cdef int index                         # of its parameter in `names`
    cdef size_t offset                     # of its gradient in that of the parameter, in bytes

    cdef rk_matrix floats(self, char *start) noexcept nogil
    cdef rk_matrix decode(self, const Pass *p, char *scratch) noexcept nogil
    cdef size_t decoded_bytes(self) noexcept nogil
    # Bytes of scratch that `forward` and `backward` need.
    cdef size_t scratch(self, const Pass *p) noexcept nogil
    # One product of dispatch.matmul, whose matrix is set here.
    cdef void forward(self, const Pass *p, rk_product product, char *scratch) noexcept nogil
    # y = W shift(x): a product with a token shift of x, as `backward_shifted` goes back through.
    cdef void forward_shifted(self, const Pass *p, bint lerped, const char *x, const char *mix, const char *more,
                              size_t before, char *y, char *scratch) noexcept nogil
    # Whether `backward` reads x.
    cdef bint needs_input(self, const Backward *b) noexcept nogil
    # Of y = W x: dx = W^T dy, unless dx is NULL; dW += dy x^T, unless W is frozen. Tokens of x are x_stride elements
    # apart; of a weight that is not in_out, as many as its inputs.
    cdef void backward(self, const Backward *b, const char *x, Py_ssize_t x_stride, const char *dy, char *dx,
                       char *scratch) noexcept nogil
    # The same for a token shift of x: x is shifted into `buffer` (tokens, inputs) if it is needed; d_shifted is the
    # gradient of the shifted tokens, for dispatch.shift_gradients.
    cdef void backward_shifted(self, const Backward *b, bint lerped, const char *x, const char *mix, const char *more,
                               size_t before, const char *dy, char *d_shifted, char *buffer,
                               char *scratch) noexcept nogil


cdef class MixGradient:
    cdef readonly list names               # short names of the parameters that get a gradient
    cdef readonly list quantized           # those of quantized matrices
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
