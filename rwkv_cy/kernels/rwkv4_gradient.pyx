"""The backward pass of the two mixes of RWKV-4."""

from libc.string cimport memset

from rwkv_cy.kernels.dispatch cimport (
    RK_ADD, RK_ADD_GATED, RK_LERPED, RK_RELU_SQUARED, add_scaled, channels_gradient_scratch, gated_gradient,
    relu_squared, relu_squared_gradient, rk_product, rk_shift_gradient, run_channels, run_channels_gradient,
    shift_gradients, take_last,
)
from rwkv_cy.kernels.gradient cimport Backward, MixGradient
from rwkv_cy.kernels.rwkv4 cimport RK_WKV4, ChannelMix, TimeMix
from rwkv_cy.kernels.stack cimport Arena, Pass, keep_last, take


cdef class TimeMixGradient(MixGradient):
    """Backward pass of the time mix.

    Parameters
    ----------
    mix : TimeMix
    """

    def __init__(self, TimeMix mix not None):
        super().__init__(mix)
        self.mix = mix
        self.receptance = self.weight(mix.receptance, "att.receptance.weight")
        self.key = self.weight(mix.key, "att.key.weight")
        self.value = self.weight(mix.value, "att.value.weight")
        self.output = self.weight(mix.output, "att.output.weight")
        self.decay = self.parameter("att.time_decay")
        self.bonus = self.parameter("att.time_first")
        self.mix_k = self.parameter("att.time_mix_k")
        self.mix_v = self.parameter("att.time_mix_v")
        self.mix_r = self.parameter("att.time_mix_r")

    cdef SavedTimeMix carve(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef size_t att = p.tokens.count * self.mix.d_att * self.itemsize
        cdef SavedTimeMix s
        s.k, s.v, s.r, s.gated = take(arena, att), take(arena, att), take(arena, att), take(arena, att)
        return s

    cdef size_t saved(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve(&arena, p)
        return arena.used

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        cdef size_t number = p.tokens.count * self.itemsize
        cdef int _
        for _ in range(4):
            take(&arena, number * self.mix.d_att)
            take(&arena, number * self.d_model)
        take(&arena, self.mix.d_att * self.itemsize)
        take(&arena, max(max(max(self.receptance.scratch(p), self.key.scratch(p)),
                             max(self.value.scratch(p), self.output.scratch(p))),
                         channels_gradient_scratch(p.ops, &p.tokens, p.num_threads)))
        return arena.used

    cdef void record(self, const Pass *p, const char *x, char *saved, char *scratch, char *y) noexcept nogil:
        cdef size_t xx = self.mix.xx
        cdef Arena arena = Arena(saved, 0)
        cdef SavedTimeMix s = self.carve(&arena, p)
        arena = Arena(scratch, 0)
        cdef char *mixed = take(&arena, p.tokens.count * self.d_model * self.itemsize)
        cdef char *rest = take(&arena, 0)
        self.key.forward_shifted(p, False, x, self.mix.mix_k, NULL, xx, s.k, rest)
        self.value.forward_shifted(p, False, x, self.mix.mix_v, NULL, xx, s.v, rest)
        self.receptance.forward_shifted(p, False, x, self.mix.mix_r, NULL, xx, s.r, rest)
        keep_last(p, x, self.d_model * self.itemsize, xx)
        cdef rk_wkv4 call = self.mix.call
        call.k, call.v, call.r, call.y = s.k, s.v, s.r, s.gated
        run_channels(p.ops, RK_WKV4, &call.channels, &p.tokens, p.num_threads)
        cdef rk_product product = self.mix.output.times(s.gated, mixed)
        product.then, product.into = RK_ADD, y
        self.output.forward(p, product, rest)

    cdef void backward(self, const Backward *b, const char *x, const char *saved, const char *dy, char *scratch,
                       char *dx) noexcept nogil:
        cdef const Pass *p = &b.forward
        cdef size_t xx = self.mix.xx
        cdef size_t att = p.tokens.count * self.mix.d_att * self.itemsize
        cdef size_t model = p.tokens.count * self.d_model * self.itemsize
        cdef Arena arena = Arena(<char *>saved, 0)
        cdef SavedTimeMix s = self.carve(&arena, p)
        arena = Arena(scratch, 0)
        cdef char *d_gated = take(&arena, att)
        cdef char *dr = take(&arena, att)
        cdef char *dk = take(&arena, att)
        cdef char *dv = take(&arena, att)
        cdef char *shifted_x = take(&arena, model)
        cdef char *d_shifted[3]
        cdef int i
        for i in range(3):
            d_shifted[i] = take(&arena, model)
        cdef char *dw = take(&arena, self.mix.d_att * self.itemsize)
        cdef char *rest = take(&arena, 0)
        take_last(p.ops, &p.tokens, self.d_model, xx, dx)
        self.output.backward(b, s.gated, self.mix.d_att, dy, d_gated, rest)
        cdef rk_wkv4_gradient call
        call.forward = self.mix.call
        call.forward.k, call.forward.v, call.forward.r = s.k, s.v, s.r
        call.dy, call.dr, call.dk, call.dv = d_gated, dr, dk, dv
        memset(dw, 0, self.mix.d_att * self.itemsize)
        call.dw, call.du = dw, b.gradients[self.bonus]
        run_channels_gradient(p.ops, RK_WKV4, &call.forward.channels, &p.tokens, rest, p.num_threads)
        if b.gradients[self.decay] != NULL:
            # w = -e^decay, whose derivative is w
            add_scaled(p.ops, self.mix.call.w, dw, self.mix.d_att, b.gradients[self.decay])
        cdef rk_shift_gradient[3] shifts
        self.key.backward_shifted(b, False, x, self.mix.mix_k, NULL, xx, dk, d_shifted[0], shifted_x, rest)
        self.value.backward_shifted(b, False, x, self.mix.mix_v, NULL, xx, dv, d_shifted[1], shifted_x, rest)
        self.receptance.backward_shifted(b, False, x, self.mix.mix_r, NULL, xx, dr, d_shifted[2], shifted_x, rest)
        shifts[0] = rk_shift_gradient(self.mix.mix_k, NULL, d_shifted[0], b.gradients[self.mix_k], NULL)
        shifts[1] = rk_shift_gradient(self.mix.mix_v, NULL, d_shifted[1], b.gradients[self.mix_v], NULL)
        shifts[2] = rk_shift_gradient(self.mix.mix_r, NULL, d_shifted[2], b.gradients[self.mix_r], NULL)
        shift_gradients(p.ops, shifts, 3, False, x, xx, &p.tokens, self.d_model, dx, p.num_threads)


cdef class ChannelMixGradient(MixGradient):
    """Backward pass of the channel mix.

    Parameters
    ----------
    mix : ChannelMix
    mixes : str, default "ffn.time_mix_"
        As for :class:`rwkv_cy.kernels.rwkv4.ChannelMix`.
    """

    def __init__(self, ChannelMix mix not None, mixes="ffn.time_mix_"):
        super().__init__(mix)
        self.mix = mix
        self.key = self.weight(mix.key, "ffn.key.weight")
        self.value = self.weight(mix.value, "ffn.value.weight")
        self.receptance = self.weight(mix.receptance, "ffn.receptance.weight")
        self.mix_k = self.parameter(f"{mixes}k")
        self.mix_r = self.parameter(f"{mixes}r")

    cdef SavedChannelMix carve(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef size_t model = p.tokens.count * self.d_model * self.itemsize
        cdef SavedChannelMix s
        s.mixed, s.r = take(arena, model), take(arena, model)
        s.k = take(arena, p.tokens.count * self.mix.d_ffn * self.itemsize)
        return s

    cdef size_t saved(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve(&arena, p)
        return arena.used

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        cdef size_t number = p.tokens.count * self.itemsize
        cdef int _
        for _ in range(5):
            take(&arena, number * self.d_model)
        take(&arena, number * self.mix.d_ffn)
        take(&arena, number * self.mix.d_ffn)
        take(&arena, max(self.key.scratch(p), max(self.value.scratch(p), self.receptance.scratch(p))))
        return arena.used

    cdef void record(self, const Pass *p, const char *x, char *saved, char *scratch, char *y) noexcept nogil:
        cdef size_t xx = self.mix.xx
        cdef bint lerped = self.mix.shift == RK_LERPED
        cdef Arena arena = Arena(saved, 0)
        cdef SavedChannelMix s = self.carve(&arena, p)
        self.receptance.forward_shifted(p, lerped, x, self.mix.mix_r, NULL, xx, s.r, scratch)
        self.key.forward_shifted(p, lerped, x, self.mix.mix_k, NULL, xx, s.k, scratch)
        keep_last(p, x, self.d_model * self.itemsize, xx)
        cdef rk_product product = self.mix.value.times(s.k, s.mixed)
        product.first = RK_RELU_SQUARED
        product.then, product.gate, product.into = RK_ADD_GATED, s.r, y
        self.value.forward(p, product, scratch)

    cdef void backward(self, const Backward *b, const char *x, const char *saved, const char *dy, char *scratch,
                       char *dx) noexcept nogil:
        cdef const Pass *p = &b.forward
        cdef size_t xx = self.mix.xx
        cdef Py_ssize_t tokens = p.tokens.count
        cdef size_t model = tokens * self.d_model * self.itemsize
        cdef size_t ffn = tokens * self.mix.d_ffn * self.itemsize
        cdef bint lerped = self.mix.shift == RK_LERPED
        cdef Arena arena = Arena(<char *>saved, 0)
        cdef SavedChannelMix s = self.carve(&arena, p)
        arena = Arena(scratch, 0)
        cdef char *d_mixed = take(&arena, model)
        cdef char *dr = take(&arena, model)
        cdef char *shifted_x = take(&arena, model)
        cdef char *d_shifted_k = take(&arena, model)
        cdef char *d_shifted_r = take(&arena, model)
        cdef char *hidden = take(&arena, ffn)
        cdef char *dk = take(&arena, ffn)
        cdef char *rest = take(&arena, 0)
        take_last(p.ops, &p.tokens, self.d_model, xx, dx)
        # y = sigmoid(r) (V max(k, 0)^2)
        gated_gradient(p.ops, s.r, s.mixed, dy, tokens * self.d_model, d_mixed, dr, p.num_threads)
        if self.value.needs_input(b):
            relu_squared(p.ops, s.k, tokens * self.mix.d_ffn, hidden, p.num_threads)
        self.value.backward(b, hidden, self.mix.d_ffn, d_mixed, dk, rest)
        relu_squared_gradient(p.ops, s.k, tokens * self.mix.d_ffn, dk, p.num_threads)
        self.key.backward_shifted(b, lerped, x, self.mix.mix_k, NULL, xx, dk, d_shifted_k, shifted_x, rest)
        self.receptance.backward_shifted(b, lerped, x, self.mix.mix_r, NULL, xx, dr, d_shifted_r, shifted_x, rest)
        cdef rk_shift_gradient[2] shifts
        shifts[0] = rk_shift_gradient(self.mix.mix_k, NULL, d_shifted_k, b.gradients[self.mix_k], NULL)
        shifts[1] = rk_shift_gradient(self.mix.mix_r, NULL, d_shifted_r, b.gradients[self.mix_r], NULL)
        shift_gradients(p.ops, shifts, 2, lerped, x, xx, &p.tokens, self.d_model, dx, p.num_threads)
