"""The channel mix of RWKV-7a: DeepEmbed, a small matrix for each token that scales the hidden vector."""

from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.matrix import make_factors, make_matrix

from rwkv_cy.kernels.dispatch cimport (
    RK_ADD, RK_LERPED, RK_RELU_SQUARED_SCALED, matmul, rk_product, token_matrices,
)
from rwkv_cy.kernels.embedding cimport Embedding
from rwkv_cy.kernels.stack cimport Arena, Pass, keep_last, last_product, product_scratch, shifted, take


cdef class ChannelMix(ChannelMix7):
    """Channel mix: token shift and squared ReLU, scaled by a low-rank product through the token's own matrix.

    Parameters
    ----------
    config, offsets, parameters, output_scale, activations
        As for :class:`rwkv_cy.kernels.rwkv7.ChannelMix`. The table ``ffn.s_emb.weight`` is used without a copy.

    Raises
    ------
    KernelError
        If a row of the table is not a square matrix of the low-rank factors' rank.
    """

    def __init__(self, config, offsets, parameters, output_scale, activations="f32"):
        super().__init__(config, offsets, parameters, output_scale, activations)
        real = config.compute_dtype
        self.s1, self.s2 = make_factors(parameters, "ffn.s", real, activations)
        self.s_emb_x = make_matrix(parameters["ffn.s_emb_x.weight"], real, 1.0, activations)
        self.s_emb = Embedding(parameters["ffn.s_emb.weight"], real)
        self.s0 = self.vector(parameters, "ffn.s0", real)
        self.size = self.s1.m.rows
        if not self.s_emb.width == self.s_emb_x.m.rows == self.size * self.size or self.s2.m.cols != self.size:
            raise KernelError(
                f"ChannelMix: expected rows of {self.size} x {self.size} numbers in ffn.s_emb, the rank of ffn.s1 and "
                f"ffn.s2 squared, got {self.s_emb.width}"
            )
        self.vocab_size = self.s_emb.vocab_size
        self.uses_embedding = True

    cdef DeepEmbedBuffers carve_all(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef DeepEmbedBuffers b
        cdef Py_ssize_t number = p.tokens.count * self.itemsize
        b.k = take(arena, number * self.d_ffn)
        b.table = take(arena, number * self.size * self.size)
        b.residual = take(arena, number * self.size * self.size)
        b.hidden = take(arena, number * self.size)
        b.mapped = take(arena, number * self.size)
        b.factor = take(arena, number * self.d_ffn)
        b.mixed = take(arena, number * self.d_model)
        b.rest = take(arena, max(
            product_scratch(p, self.key) + product_scratch(p, self.s1) + product_scratch(p, self.s_emb_x),
            max(product_scratch(p, self.s2), product_scratch(p, self.value))))
        return b

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve_all(&arena, p)
        return arena.used

    cdef void prefetch(self, const Pass *p) noexcept nogil:
        self.s_emb.prefetch(p.ids, p.tokens.count)

    cdef void run(self, const Pass *p, const char *x, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(scratch, 0)
        cdef DeepEmbedBuffers b = self.carve_all(&arena, p)
        cdef rk_product[3] products
        # k = K lerp(x, xx, x_k);  hidden = x s1;  table = s_emb[token] + s_emb_x embedded
        self.s_emb.write(p.ids, p.tokens.count, b.table)
        products[0] = shifted(self.key.times(x, b.k), RK_LERPED, self.x_k, self.xx)
        products[1] = self.s1.times(x, b.hidden)
        products[2] = self.s_emb_x.times(p.embedded, b.residual)
        products[2].then, products[2].into = RK_ADD, b.table
        matmul(p.ops, products, 3, &p.tokens, b.rest, p.num_threads)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        # factor = (hidden table) s2
        token_matrices(p.ops, b.hidden, b.table, p.tokens.count, self.size, p.num_threads, b.mapped)
        products[0] = self.s2.times(b.mapped, b.factor)
        matmul(p.ops, products, 1, &p.tokens, b.rest, p.num_threads)
        # y += V (max(k, 0)^2 * (factor + s0))
        products[0] = self.value.times(b.k, b.mixed)
        products[0].first, products[0].mix, products[0].more = RK_RELU_SQUARED_SCALED, self.s0, b.factor
        products[0].then, products[0].into = RK_ADD, y
        last_product(p, products, b.rest)
