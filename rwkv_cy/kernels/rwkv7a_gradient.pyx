"""The backward pass of the channel mix of RWKV-7a; that of the time mix is RWKV-7's."""

from cython cimport floating
from libc.string cimport memset

from rwkv_cy.kernels.dispatch cimport (
    RK_ADD, RK_RELU_SQUARED_SCALED, add, add_scaled, relu_squared, relu_squared_gradient, rk_product, token_matrices,
)
from rwkv_cy.kernels.gradient cimport Backward
from rwkv_cy.kernels.matrix cimport times
from rwkv_cy.kernels.rwkv7a cimport ChannelMix
from rwkv_cy.kernels.stack cimport Arena, Pass, keep_last, take


cdef void _token_matrices_gradient(const floating *hidden, const floating *table, const floating *d_mapped,
                                   Py_ssize_t tokens, Py_ssize_t size, floating *d_hidden,
                                   floating *d_table) noexcept nogil:
    """Of mapped[j] = sum over i of hidden[i] table[i, j], compute the gradients of both."""
    cdef Py_ssize_t _, i, j
    cdef floating total
    for _ in range(tokens):
        for i in range(size):
            total = 0
            for j in range(size):
                total += table[i * size + j] * d_mapped[j]
                d_table[i * size + j] = hidden[i] * d_mapped[j]
            d_hidden[i] = total
        hidden += size
        d_hidden += size
        d_mapped += size
        table += size * size
        d_table += size * size


cdef class ChannelMixGradient(ChannelMixGradient7):
    """Backward pass of the channel mix; the gradient of the table is that of the rows that were read.

    Parameters
    ----------
    mix : ChannelMix
    """

    def __init__(self, ChannelMix mix not None):
        super().__init__(mix)
        self.own = mix
        self.s1, self.s2 = self.weight(mix.s1, "ffn.s1", in_out=True), self.weight(mix.s2, "ffn.s2", in_out=True)
        self.s_emb_x = self.weight(mix.s_emb_x, "ffn.s_emb_x.weight")
        self.s0, self.s_emb = self.parameter("ffn.s0"), self.parameter("ffn.s_emb.weight")

    cdef DeepEmbedScratch carve_all(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef DeepEmbedScratch t
        cdef size_t number = p.tokens.count * self.itemsize
        cdef size_t size = self.own.size
        cdef size_t ffn = number * self.mix.d_ffn
        t.base = self.carve_scratch(arena, p)
        t.table, t.d_table = take(arena, number * size * size), take(arena, number * size * size)
        t.hidden, t.mapped = take(arena, number * size), take(arena, number * size)
        t.d_hidden, t.d_mapped = take(arena, number * size), take(arena, number * size)
        t.factor, t.scaled, t.d_factor = take(arena, ffn), take(arena, ffn), take(arena, ffn)
        t.d_input = take(arena, number * self.d_model)
        return t

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve_all(&arena, p)
        return arena.used

    cdef void factors(self, const Pass *p, const char *x, const DeepEmbedScratch *t) noexcept nogil:
        """hidden = x s1;  table = s_emb[token] + s_emb_x embedded;  mapped = hidden table;  factor = mapped s2"""
        cdef rk_product product = self.own.s_emb_x.times(p.embedded, t.d_table)
        self.own.s_emb.write(p.ids, p.tokens.count, t.table)
        product.then, product.into = RK_ADD, t.table
        self.s_emb_x.forward(p, product, t.base.rest)
        self.s1.forward(p, times(&self.s1.m, x, t.hidden), t.base.rest)
        token_matrices(p.ops, t.hidden, t.table, p.tokens.count, self.own.size, p.num_threads, t.mapped)
        self.s2.forward(p, times(&self.s2.m, t.mapped, t.factor), t.base.rest)

    cdef void record(self, const Pass *p, const char *x, char *saved, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(scratch, 0)
        cdef DeepEmbedScratch t = self.carve_all(&arena, p)
        # What is saved is k (tokens, d_ffn).
        self.factors(p, x, &t)
        self.forward_shifted(p, self.key, x, self.mix.x_k, NULL, saved, t.base.rest)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        cdef rk_product product = self.mix.value.times(saved, t.base.shifted)
        product.first, product.mix, product.more = RK_RELU_SQUARED_SCALED, self.own.s0, t.factor
        product.then, product.into = RK_ADD, y
        self.value.forward(p, product, t.base.rest)

    cdef void backward(self, const Backward *b, const char *x, const char *saved, const char *dy, char *scratch,
                       char *dx) noexcept nogil:
        cdef const Pass *p = &b.forward
        cdef Py_ssize_t tokens = p.tokens.count
        cdef Py_ssize_t width = self.mix.d_ffn
        cdef Py_ssize_t count = tokens * width
        cdef Py_ssize_t square = self.own.size * self.own.size
        cdef size_t ffn = width * self.itemsize
        cdef Py_ssize_t i
        cdef Arena arena = Arena(scratch, 0)
        cdef DeepEmbedScratch t = self.carve_all(&arena, p)
        self.begin_backward(p, dx)
        self.factors(p, x, &t)
        # y = V scaled;  scaled = max(k, 0)^2 factor, to which s0 is added here
        relu_squared(p.ops, saved, count, t.base.hidden, p.num_threads)
        for i in range(tokens):
            add(p.ops, self.own.s0, width, t.factor + i * ffn, 1)
        memset(t.scaled, 0, count * self.itemsize)
        add_scaled(p.ops, t.base.hidden, t.factor, count, t.scaled)
        self.value.backward(b, t.scaled, width, dy, t.base.dk, t.base.rest)
        memset(t.d_factor, 0, count * self.itemsize)
        add_scaled(p.ops, t.base.dk, t.base.hidden, count, t.d_factor)
        memset(t.scaled, 0, count * self.itemsize)
        add_scaled(p.ops, t.base.dk, t.factor, count, t.scaled)
        relu_squared_gradient(p.ops, saved, count, t.scaled, p.num_threads)
        self.key_backward(b, x, t.scaled, &t.base, dx)
        if b.gradients[self.s0] != NULL:
            for i in range(tokens):
                add(p.ops, t.d_factor + i * ffn, width, b.gradients[self.s0], 1)
        self.s2.backward(b, t.mapped, self.own.size, t.d_factor, t.d_mapped, t.base.rest)
        if self.itemsize == sizeof(double):
            _token_matrices_gradient(<double *>t.hidden, <double *>t.table, <double *>t.d_mapped, tokens,
                                     self.own.size, <double *>t.d_hidden, <double *>t.d_table)
        else:
            _token_matrices_gradient(<float *>t.hidden, <float *>t.table, <float *>t.d_mapped, tokens,
                                     self.own.size, <float *>t.d_hidden, <float *>t.d_table)
        if b.gradients[self.s_emb] != NULL:
            for i in range(tokens):
                add(p.ops, t.d_table + i * square * self.itemsize, square,
                    b.gradients[self.s_emb] + p.ids[i] * square * self.itemsize, 1)
        self.s_emb_x.backward(b, p.embedded, self.d_model, t.d_table, t.d_input, t.base.rest)
        add(p.ops, t.d_input, tokens * self.d_model, b.d_embedded, p.num_threads)
        self.s1.backward(b, x, self.d_model, t.d_hidden, t.d_input, t.base.rest)
        add(p.ops, t.d_input, tokens * self.d_model, dx, p.num_threads)
