"""The backward pass of the channel mix of RWKV-8 rc00; that of the time mix is RWKV-7's."""

from libc.string cimport memset

from rwkv_cy.kernels.dispatch cimport (
    RK_ADD_SCALED, RK_RELU_SQUARED, add_scaled, relu_squared, relu_squared_gradient, rk_product,
)
from rwkv_cy.kernels.gradient cimport Backward
from rwkv_cy.kernels.rwkv7_gradient cimport ChannelMixScratch
from rwkv_cy.kernels.rwkv8_rc00 cimport ChannelMix
from rwkv_cy.kernels.stack cimport Arena, Pass, keep_last, take


cdef class ChannelMixGradient(ChannelMixGradient7):
    """Backward pass of the channel mix; the gradient of the table is that of the rows that were read.

    Parameters
    ----------
    mix : ChannelMix
    """

    def __init__(self, ChannelMix mix not None):
        super().__init__(mix)
        self.own, self.enn = mix, self.parameter("ffn.enn.weight")

    cdef SavedChannelMix carve(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef SavedChannelMix s
        s.k = take(arena, p.tokens.count * self.mix.d_ffn * self.itemsize)
        s.mixed = take(arena, p.tokens.count * self.d_model * self.itemsize)
        return s

    cdef size_t saved(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve(&arena, p)
        return arena.used

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        cdef size_t model = p.tokens.count * self.d_model * self.itemsize
        self.carve_scratch(&arena, p)
        take(&arena, model)
        take(&arena, model)
        return arena.used

    cdef void record(self, const Pass *p, const char *x, char *saved, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(saved, 0)
        cdef SavedChannelMix s = self.carve(&arena, p)
        arena = Arena(scratch, 0)
        cdef ChannelMixScratch t = self.carve_scratch(&arena, p)
        cdef char *factor = take(&arena, p.tokens.count * self.d_model * self.itemsize)
        self.own.enn.write(p.ids, p.tokens.count, factor)
        self.forward_shifted(p, self.key, x, self.mix.x_k, NULL, s.k, t.rest)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        cdef rk_product product = self.mix.value.times(s.k, s.mixed)
        product.first = RK_RELU_SQUARED
        product.then, product.gate, product.into = RK_ADD_SCALED, factor, y
        self.value.forward(p, product, t.rest)

    cdef void backward(self, const Backward *b, const char *x, const char *saved, const char *dy, char *scratch,
                       char *dx) noexcept nogil:
        cdef const Pass *p = &b.forward
        cdef Py_ssize_t i
        cdef Py_ssize_t tokens = p.tokens.count
        cdef size_t row = self.d_model * self.itemsize
        cdef char *table = b.gradients[self.enn]
        cdef Arena arena = Arena(<char *>saved, 0)
        cdef SavedChannelMix s = self.carve(&arena, p)
        arena = Arena(scratch, 0)
        cdef ChannelMixScratch t = self.carve_scratch(&arena, p)
        cdef char *factor = take(&arena, tokens * row)
        cdef char *d_mixed = take(&arena, tokens * row)
        self.begin_backward(p, dx)
        # y = enn[token] mixed
        self.own.enn.write(p.ids, tokens, factor)
        memset(d_mixed, 0, tokens * row)
        add_scaled(p.ops, factor, dy, tokens * self.d_model, d_mixed)
        if table != NULL:
            for i in range(tokens):
                add_scaled(p.ops, s.mixed + i * row, dy + i * row, self.d_model, table + p.ids[i] * row)
        # mixed = V max(k, 0)^2
        if self.value.needs_input(b):
            relu_squared(p.ops, s.k, tokens * self.mix.d_ffn, t.hidden, p.num_threads)
        self.value.backward(b, t.hidden, self.mix.d_ffn, d_mixed, t.dk, t.rest)
        relu_squared_gradient(p.ops, s.k, tokens * self.mix.d_ffn, t.dk, p.num_threads)
        self.key_backward(b, x, t.dk, &t, dx)
