"""Declarations of a weight matrix in the recorded pass and in the backward pass."""

from rwkv_cy.kernels.dispatch cimport rk_matrix, rk_product
from rwkv_cy.kernels.matrix cimport Matrix
from rwkv_cy.kernels.stack cimport Pass


# One batch of tokens on its way back through a layer. `read` of a sequence is the layer's row of the state before its
# first token; `write` is the gradient of that row: of the state after the last token on entry, before the first one on
# return.
cdef struct Backward:
    Pass forward          # `shared` holds what the recorded pass has written there
    char **gradients      # of the parameters, in the order of `names`, added to; NULL for one that is frozen
    char *d_shared        # gradient of `shared`
    char *d_embedded      # gradient of `embedded`, to which mixes add; NULL if none uses it


cdef class Weight:
    cdef readonly Matrix matrix            # owns the memory that m points to
    cdef rk_matrix m
    cdef bint decoded                      # quantized or adapted: converted to floats in scratch for every product
    cdef rk_matrix a                       # factors of an adapter: W + scale B A; a.data is NULL without one
    cdef rk_matrix b
    cdef int index_a, index_b              # of the factors in `names`
    cdef object _factors                   # owns their memory
    cdef bint in_out                       # shape of the gradient: (inputs, outputs), else (outputs, inputs)
    cdef int index                         # of its parameter in `names`
    cdef size_t offset                     # of its gradient in that of the parameter, in bytes

    # Use W + scale B A: a (rank, inputs), b (outputs, rank), of the activations' type.
    cdef int adapt(self, a, b, double scale, int index_a, int index_b) except -1
    cdef rk_matrix floats(self, char *start) noexcept nogil
    cdef rk_matrix decode(self, const Pass *p, char *scratch) noexcept nogil
    cdef size_t decoded_bytes(self) noexcept nogil
    cdef rk_matrix update(self) noexcept nogil
    cdef size_t flipped_bytes(self) noexcept nogil
    cdef size_t adapter_scratch(self, const Pass *p) noexcept nogil
    cdef void adapter_backward(self, const Backward *b, const char *x, const char *dy, char *scratch) noexcept nogil
    # Bytes of scratch that `forward` and `backward` need.
    cdef size_t scratch(self, const Pass *p) noexcept nogil
    # One product of dispatch.matmul, whose matrix is set here.
    cdef void forward(self, const Pass *p, rk_product product, char *scratch) noexcept nogil
    # Whether `backward` reads x.
    cdef bint needs_input(self, const Backward *b) noexcept nogil
    # Of y = W x: dx = W^T dy, unless dx is NULL; dW += dy x^T, unless W is frozen. Tokens of x are x_stride elements
    # apart; of a weight that is not in_out, as many as its inputs.
    cdef void backward(self, const Backward *b, const char *x, Py_ssize_t x_stride, const char *dy, char *dx,
                       char *scratch) noexcept nogil
