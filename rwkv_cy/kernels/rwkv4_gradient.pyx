"""The backward pass of the two mixes of RWKV-4."""

from libc.string cimport memset

from rwkv_cy.kernels.dispatch cimport (
    RK_ADD_GATED, RK_LERPED, RK_RELU_SQUARED, add_scaled, channels_gradient_scratch, gated_gradient, relu_squared,
    relu_squared_gradient, rk_product, rk_shift_gradient, run_channels, run_channels_gradient,
)
from rwkv_cy.kernels.gradient cimport Backward, MixGradient
from rwkv_cy.kernels.rwkv4 cimport RK_WKV4, ChannelMix, TimeMix
from rwkv_cy.kernels.stack cimport Arena, Pass, keep_last, take
from rwkv_cy.kernels.time_mix_gradient cimport BaseTimeMixGradient


cdef class TimeMixGradient(BaseTimeMixGradient):
    """Backward pass of the time mix.

    Parameters
    ----------
    mix : TimeMix
    """

    def __init__(self, TimeMix mix not None):
        super().__init__(mix, lerped=False)
        self.mix = mix
        self.decay = self.parameter("att.time_decay")
        self.bonus = self.parameter("att.time_first")
        self.mix_k = self.parameter("att.time_mix_k")
        self.mix_v = self.parameter("att.time_mix_v")
        self.mix_r = self.parameter("att.time_mix_r")

    cdef SavedTimeMix carve(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef SavedTimeMix s
        s.k, s.v = self.take_att(arena, p), self.take_att(arena, p)
        s.r, s.gated = self.take_att(arena, p), self.take_att(arena, p)
        return s

    cdef size_t saved(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve(&arena, p)
        return arena.used

    cdef TimeMixScratch carve_scratch(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef TimeMixScratch t
        cdef int i
        t.dy, t.dr = self.take_att(arena, p), self.take_att(arena, p)
        t.dk, t.dv = self.take_att(arena, p), self.take_att(arena, p)
        t.shifted = self.take_model(arena, p)
        for i in range(SHIFTS):
            t.d_shifted[i] = self.take_model(arena, p)
        t.dw = take(arena, self.d_att * self.itemsize)
        t.rest = take(arena, max(self.weights_scratch(p),
                                 channels_gradient_scratch(p.ops, &p.tokens, p.num_threads)))
        return t

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve_scratch(&arena, p)
        return arena.used

    cdef void record(self, const Pass *p, const char *x, char *saved, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(saved, 0)
        cdef SavedTimeMix s = self.carve(&arena, p)
        arena = Arena(scratch, 0)
        cdef TimeMixScratch t = self.carve_scratch(&arena, p)
        self.forward_shifted(p, self.key, x, self.mix.mix_k, NULL, s.k, t.rest)
        self.forward_shifted(p, self.value, x, self.mix.mix_v, NULL, s.v, t.rest)
        self.forward_shifted(p, self.receptance, x, self.mix.mix_r, NULL, s.r, t.rest)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        cdef rk_wkv4 call = self.mix.call
        call.k, call.v, call.r, call.y = s.k, s.v, s.r, s.gated
        run_channels(p.ops, RK_WKV4, &call.channels, &p.tokens, p.num_threads)
        self.add_output(p, s.gated, t.shifted, y, t.rest)

    cdef void backward(self, const Backward *b, const char *x, const char *saved, const char *dy, char *scratch,
                       char *dx) noexcept nogil:
        cdef const Pass *p = &b.forward
        cdef Arena arena = Arena(<char *>saved, 0)
        cdef SavedTimeMix s = self.carve(&arena, p)
        arena = Arena(scratch, 0)
        cdef TimeMixScratch t = self.carve_scratch(&arena, p)
        cdef rk_shift_gradient[SHIFTS] shifts
        self.begin_backward(p, dx)
        self.output.backward(b, s.gated, self.d_att, dy, t.dy, t.rest)
        cdef rk_wkv4_gradient call
        call.forward = self.mix.call
        call.forward.k, call.forward.v, call.forward.r = s.k, s.v, s.r
        call.dy, call.dr, call.dk, call.dv = t.dy, t.dr, t.dk, t.dv
        memset(t.dw, 0, self.d_att * self.itemsize)
        call.dw, call.du = t.dw, b.gradients[self.bonus]
        run_channels_gradient(p.ops, RK_WKV4, &call.forward.channels, &p.tokens, t.rest, p.num_threads)
        if b.gradients[self.decay] != NULL:
            # w = -e^decay, whose derivative is w
            add_scaled(p.ops, self.mix.call.w, t.dw, self.d_att, b.gradients[self.decay])
        shifts[0] = self.backward_shifted(b, self.key, x, self.mix.mix_k, self.mix_k, NULL, t.dk, t.d_shifted[0], NULL,
                                          t.shifted, t.rest)
        shifts[1] = self.backward_shifted(b, self.value, x, self.mix.mix_v, self.mix_v, NULL, t.dv, t.d_shifted[1],
                                          NULL, t.shifted, t.rest)
        shifts[2] = self.backward_shifted(b, self.receptance, x, self.mix.mix_r, self.mix_r, NULL, t.dr,
                                          t.d_shifted[2], NULL, t.shifted, t.rest)
        self.backward_shifts(p, shifts, SHIFTS, x, dx)


cdef class ChannelMixGradient(MixGradient):
    """Backward pass of the channel mix.

    Parameters
    ----------
    mix : ChannelMix
    mixes : str, default "ffn.time_mix_"
        As for :class:`rwkv_cy.kernels.rwkv4.ChannelMix`.
    """

    def __init__(self, ChannelMix mix not None, mixes="ffn.time_mix_"):
        super().__init__(mix, mix.xx, lerped=mix.shift == RK_LERPED)
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

    cdef ChannelMixScratch carve_scratch(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef ChannelMixScratch t
        cdef size_t model = p.tokens.count * self.d_model * self.itemsize
        cdef size_t ffn = p.tokens.count * self.mix.d_ffn * self.itemsize
        t.d_mixed, t.dr, t.shifted = take(arena, model), take(arena, model), take(arena, model)
        t.d_shifted_k, t.d_shifted_r = take(arena, model), take(arena, model)
        t.hidden, t.dk = take(arena, ffn), take(arena, ffn)
        t.rest = take(arena, self.weights_scratch(p))
        return t

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve_scratch(&arena, p)
        return arena.used

    cdef void record(self, const Pass *p, const char *x, char *saved, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(saved, 0)
        cdef SavedChannelMix s = self.carve(&arena, p)
        self.forward_shifted(p, self.receptance, x, self.mix.mix_r, NULL, s.r, scratch)
        self.forward_shifted(p, self.key, x, self.mix.mix_k, NULL, s.k, scratch)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        cdef rk_product product = self.mix.value.times(s.k, s.mixed)
        product.first = RK_RELU_SQUARED
        product.then, product.gate, product.into = RK_ADD_GATED, s.r, y
        self.value.forward(p, product, scratch)

    cdef void backward(self, const Backward *b, const char *x, const char *saved, const char *dy, char *scratch,
                       char *dx) noexcept nogil:
        cdef const Pass *p = &b.forward
        cdef Py_ssize_t tokens = p.tokens.count
        cdef Arena arena = Arena(<char *>saved, 0)
        cdef SavedChannelMix s = self.carve(&arena, p)
        arena = Arena(scratch, 0)
        cdef ChannelMixScratch t = self.carve_scratch(&arena, p)
        cdef rk_shift_gradient[2] shifts
        self.begin_backward(p, dx)
        # y = sigmoid(r) (V max(k, 0)^2)
        gated_gradient(p.ops, s.r, s.mixed, dy, tokens * self.d_model, t.d_mixed, t.dr, p.num_threads)
        if self.value.needs_input(b):
            relu_squared(p.ops, s.k, tokens * self.mix.d_ffn, t.hidden, p.num_threads)
        self.value.backward(b, t.hidden, self.mix.d_ffn, t.d_mixed, t.dk, t.rest)
        relu_squared_gradient(p.ops, s.k, tokens * self.mix.d_ffn, t.dk, p.num_threads)
        shifts[0] = self.backward_shifted(b, self.key, x, self.mix.mix_k, self.mix_k, NULL, t.dk, t.d_shifted_k, NULL,
                                          t.shifted, t.rest)
        shifts[1] = self.backward_shifted(b, self.receptance, x, self.mix.mix_r, self.mix_r, NULL, t.dr,
                                          t.d_shifted_r, NULL, t.shifted, t.rest)
        self.backward_shifts(p, shifts, 2, x, dx)
