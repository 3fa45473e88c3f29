"""The recorded pass and the backward pass of the time mix of any version: its matrices, and its output."""

from rwkv_cy.kernels.dispatch cimport RK_ADD, add, heads_gradient_scratch, heads_scratch, rk_product
from rwkv_cy.kernels.gradient cimport Backward, MixGradient
from rwkv_cy.kernels.stack cimport Arena, Pass, take
from rwkv_cy.kernels.time_mix cimport BaseTimeMix


cdef class BaseTimeMixGradient(MixGradient):
    """Recorded pass and backward pass of y += O wkv(x).

    Parameters
    ----------
    mix : BaseTimeMix
    lerped : bool
        As for :class:`rwkv_cy.kernels.gradient.MixGradient`.
    """

    def __init__(self, BaseTimeMix mix not None, bint lerped):
        super().__init__(mix, mix.xx, lerped)
        self.base, self.d_att = mix, mix.d_att
        self.receptance = self.weight(mix.receptance, "att.receptance.weight")
        self.key = self.weight(mix.key, "att.key.weight")
        self.value = self.weight(mix.value, "att.value.weight")
        self.output = self.weight(mix.output, "att.output.weight")

    cdef char *take_att(self, Arena *arena, const Pass *p) noexcept nogil:
        return take(arena, p.tokens.count * self.d_att * self.itemsize)

    cdef char *take_model(self, Arena *arena, const Pass *p) noexcept nogil:
        return take(arena, p.tokens.count * self.d_model * self.itemsize)

    cdef char *take_rest(self, Arena *arena, const Pass *p, int version, Py_ssize_t head_size) noexcept nogil:
        cdef size_t heads = max(heads_scratch(p.ops, version, head_size, p.num_threads),
                                heads_gradient_scratch(p.ops, version, head_size, &p.tokens, p.num_threads))
        return take(arena, max(heads, self.weights_scratch(p)))

    cdef void add_output(self, const Pass *p, const char *gated, char *mixed, char *y, char *rest) noexcept nogil:
        cdef rk_product product = self.base.output.times(gated, mixed)
        product.then, product.into = RK_ADD, y
        self.output.forward(p, product, rest)


cdef void add_sums(const Backward *b, const int *parameters, int count, const char *sums, Py_ssize_t width,
                   size_t itemsize) noexcept nogil:
    cdef int i
    for i in range(count):
        if parameters[i] >= 0 and b.gradients[parameters[i]] != NULL:
            add(b.forward.ops, sums + i * width * itemsize, width, b.gradients[parameters[i]], b.forward.num_threads)
