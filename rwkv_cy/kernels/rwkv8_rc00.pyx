"""The channel mix of RWKV-8 rc00: a vector for each token that scales the result."""

from rwkv_cy.errors import KernelError

from rwkv_cy.kernels.dispatch cimport RK_ADD_SCALED, RK_LERPED, RK_RELU_SQUARED, matmul, rk_product
from rwkv_cy.kernels.embedding cimport Embedding
from rwkv_cy.kernels.stack cimport Arena, Pass, keep_last, last_product, shifted, take


cdef class ChannelMix(ChannelMix7):
    """Channel mix: token shift and squared ReLU, and a factor for each channel that depends on the token.

    Parameters
    ----------
    config, offsets, parameters, output_scale, activations
        As for :class:`rwkv_cy.kernels.rwkv7.ChannelMix`. The table ``ffn.enn.weight`` is used without a copy.

    Raises
    ------
    KernelError
        If a row of the table does not have d_model numbers.
    """

    def __init__(self, config, offsets, parameters, output_scale, activations="f32"):
        super().__init__(config, offsets, parameters, output_scale, activations)
        self.enn = Embedding(parameters["ffn.enn.weight"], config.compute_dtype)
        if self.enn.width != self.d_model:
            raise KernelError(f"ChannelMix: expected rows of {self.d_model} in ffn.enn.weight, got {self.enn.width}")
        self.vocab_size = self.enn.vocab_size

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve(&arena, p)
        take(&arena, p.tokens.count * self.d_model * self.itemsize)
        return arena.used

    cdef void prefetch(self, const Pass *p) noexcept nogil:
        self.enn.prefetch(p.ids, p.tokens.count)

    cdef void run(self, const Pass *p, const char *x, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(scratch, 0)
        cdef ChannelMixBuffers b = self.carve(&arena, p)
        cdef char *factor = take(&arena, p.tokens.count * self.d_model * self.itemsize)
        self.enn.write(p.ids, p.tokens.count, factor)
        cdef rk_product product = shifted(self.key.times(x, b.k), RK_LERPED, self.x_k, self.xx)
        matmul(p.ops, &product, 1, &p.tokens, b.rest, p.num_threads)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        # y += enn[token] * (V max(k, 0)^2)
        product = self.value.times(b.k, b.mixed)
        product.first = RK_RELU_SQUARED
        product.then, product.gate, product.into = RK_ADD_SCALED, factor, y
        last_product(p, &product, b.rest)
