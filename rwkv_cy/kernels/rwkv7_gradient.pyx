"""The backward pass of the two mixes of RWKV-7."""

from rwkv_cy.kernels.dispatch cimport (
    RK_ADD, RK_AS_IT_IS, RK_RELU_SQUARED, RK_SIGMOID, RK_TANH, activate, activate_gradient, add, relu_squared,
    relu_squared_gradient, rk_product, rk_shift_gradient, run_heads, run_heads_gradient,
)
from rwkv_cy.kernels.gradient cimport Backward, MixGradient, Weight
from rwkv_cy.kernels.rwkv7 cimport RK_WKV7, ChannelMix, TimeMix, rk_wkv7
from rwkv_cy.kernels.stack cimport Arena, Pass, keep_last, take
from rwkv_cy.kernels.time_mix_gradient cimport BaseTimeMixGradient, add_sums


cdef class TimeMixGradient(BaseTimeMixGradient):
    """Backward pass of the time mix.

    Parameters
    ----------
    mix : TimeMix
    """

    def __init__(self, TimeMix mix not None):
        super().__init__(mix, lerped=True)
        cdef int i
        self.mix = mix
        self.w1, self.w2 = (self.weight(mix.w1, "att.w1", in_out=True), self.weight(mix.w2, "att.w2", in_out=True))
        self.a1, self.a2 = (self.weight(mix.a1, "att.a1", in_out=True), self.weight(mix.a2, "att.a2", in_out=True))
        self.g1, self.g2 = (self.weight(mix.g1, "att.g1", in_out=True), self.weight(mix.g2, "att.g2", in_out=True))
        self.most_rank = max(mix.w1.m.rows, max(mix.a1.m.rows, mix.g1.m.rows))
        if not mix.first:
            self.v1, self.v2 = (self.weight(mix.v1, "att.v1", in_out=True), self.weight(mix.v2, "att.v2", in_out=True))
            self.most_rank = max(self.most_rank, mix.v1.m.rows)
        for i, name in enumerate("rwkvag"):
            self.mixes[i] = self.parameter(f"att.x_{name}")
        for i, name in enumerate(("w0", "a0", "v0", "k_k", "k_a", "r_k", "ln_x.weight", "ln_x.bias")):
            self.sums[i] = -1 if name == "v0" and mix.first else self.parameter(f"att.{name}")

    cdef SavedTimeMix carve(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef SavedTimeMix s
        cdef size_t number = p.tokens.count * self.itemsize
        s.r, s.k = self.take_att(arena, p), self.take_att(arena, p)
        s.v, s.gated = self.take_att(arena, p), self.take_att(arena, p)
        s.hidden_w = take(arena, number * self.mix.w1.m.rows)
        s.hidden_a = take(arena, number * self.mix.a1.m.rows)
        s.hidden_g = take(arena, number * self.mix.g1.m.rows)
        s.hidden_v = NULL if self.mix.first else take(arena, number * self.mix.v1.m.rows)
        return s

    cdef size_t saved(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve(&arena, p)
        return arena.used

    cdef TimeMixScratch carve_scratch(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef TimeMixScratch t
        cdef int i
        cdef size_t number = p.tokens.count * self.itemsize
        t.w, t.a = self.take_att(arena, p), self.take_att(arena, p)
        t.g, t.v_mix = self.take_att(arena, p), self.take_att(arena, p)
        t.v_used, t.y = self.take_att(arena, p), self.take_att(arena, p)
        t.bonus = take(arena, number * self.mix.call.heads.count)
        t.dy, t.dr = self.take_att(arena, p), self.take_att(arena, p)
        t.dk, t.dv = self.take_att(arena, p), self.take_att(arena, p)
        t.dw, t.da = self.take_att(arena, p), self.take_att(arena, p)
        t.dg, t.dv_mix = self.take_att(arena, p), self.take_att(arena, p)
        t.activated, t.d_hidden = take(arena, number * self.most_rank), take(arena, number * self.most_rank)
        t.shifted, t.d_more = self.take_model(arena, p), self.take_model(arena, p)
        for i in range(LERPS):
            t.d_shifted[i] = self.take_model(arena, p)
        t.parts = take(arena, p.tokens.sequence_count * SUMS * self.d_att * self.itemsize)
        t.rest = self.take_rest(arena, p, RK_WKV7, self.mix.call.heads.size)
        return t

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve_scratch(&arena, p)
        return arena.used

    cdef void second_products(self, const Pass *p, const SavedTimeMix *s, const TimeMixScratch *t) noexcept nogil:
        """Compute w, a, g and v_mix from the saved results of the first factors."""
        cdef rk_product product = self.mix.w2.times(s.hidden_w, t.w)
        product.first = RK_TANH
        self.w2.forward(p, product, t.rest)
        self.a2.forward(p, self.mix.a2.times(s.hidden_a, t.a), t.rest)
        product = self.mix.g2.times(s.hidden_g, t.g)
        product.first = RK_SIGMOID
        self.g2.forward(p, product, t.rest)
        if not self.mix.first:
            self.v2.forward(p, self.mix.v2.times(s.hidden_v, t.v_mix), t.rest)

    cdef rk_wkv7 forward_call(self, const Pass *p, const SavedTimeMix *s, const TimeMixScratch *t) noexcept nogil:
        cdef rk_wkv7 call = self.mix.call
        call.r, call.k, call.v, call.w, call.a, call.g = s.r, s.k, s.v, t.w, t.a, t.g
        call.v_mix = NULL if self.mix.first else t.v_mix
        call.v_used, call.v_first, call.bonus = t.v_used, p.shared, t.bonus
        return call

    cdef void record(self, const Pass *p, const char *x, char *saved, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(saved, 0)
        cdef SavedTimeMix s = self.carve(&arena, p)
        arena = Arena(scratch, 0)
        cdef TimeMixScratch t = self.carve_scratch(&arena, p)
        self.forward_shifted(p, self.key, x, self.mix.x_k, NULL, s.k, t.rest)
        self.forward_shifted(p, self.value, x, self.mix.x_v, NULL, s.v, t.rest)
        self.forward_shifted(p, self.receptance, x, self.mix.x_r, NULL, s.r, t.rest)
        self.forward_shifted(p, self.w1, x, self.mix.x_w, NULL, s.hidden_w, t.rest)
        self.forward_shifted(p, self.a1, x, self.mix.x_a, NULL, s.hidden_a, t.rest)
        self.forward_shifted(p, self.g1, x, self.mix.x_g, NULL, s.hidden_g, t.rest)
        if not self.mix.first:
            self.forward_shifted(p, self.v1, x, self.mix.x_v, NULL, s.hidden_v, t.rest)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        self.second_products(p, &s, &t)
        cdef rk_wkv7 call = self.forward_call(p, &s, &t)
        call.heads.y = s.gated
        run_heads(p.ops, RK_WKV7, &call.heads, &p.tokens, t.rest, p.num_threads)
        self.add_output(p, s.gated, t.shifted, y, t.rest)

    cdef rk_shift_gradient low_rank(self, const Backward *b, const TimeMixScratch *t, Weight first, Weight second,
                                    int activation, const char *x, const char *mix, int parameter, const char *hidden,
                                    const char *dy, char *d_shifted) noexcept nogil:
        """Of y = f(hidden) W2, hidden = lerp(x, xx, mix) W1, compute d_shifted and the gradients of both factors."""
        cdef const Pass *p = &b.forward
        cdef Py_ssize_t count = p.tokens.count * second.m.cols
        cdef const char *activated = hidden
        if activation != RK_AS_IT_IS:
            activate(p.ops, activation, hidden, count, t.activated, p.num_threads)
            activated = t.activated
        second.backward(b, activated, second.m.cols, dy, t.d_hidden, t.rest)
        if activation != RK_AS_IT_IS:
            activate_gradient(p.ops, activation, activated, count, t.d_hidden, p.num_threads)
        return self.backward_shifted(b, first, x, mix, parameter, NULL, t.d_hidden, d_shifted, NULL, t.shifted, t.rest)

    cdef void backward(self, const Backward *b, const char *x, const char *saved, const char *dy, char *scratch,
                       char *dx) noexcept nogil:
        cdef const Pass *p = &b.forward
        cdef Arena arena = Arena(<char *>saved, 0)
        cdef SavedTimeMix s = self.carve(&arena, p)
        arena = Arena(scratch, 0)
        cdef TimeMixScratch t = self.carve_scratch(&arena, p)
        cdef rk_shift_gradient[LERPS] shifts
        self.begin_backward(p, dx)
        self.output.backward(b, s.gated, self.d_att, dy, t.dy, t.rest)
        self.second_products(p, &s, &t)
        cdef rk_wkv7_gradient call
        call.forward = self.forward_call(p, &s, &t)
        call.forward.heads.y = t.y
        call.dy, call.dr, call.dw, call.dk, call.da, call.dg = t.dy, t.dr, t.dw, t.dk, t.da, t.dg
        call.dv_mix, call.dv, call.dv_first = t.dv_mix, t.dv, b.d_shared
        run_heads_gradient(p.ops, RK_WKV7, &call.forward.heads, &p.tokens, t.parts, t.rest, p.num_threads)
        add_sums(b, self.sums, SUMS, t.parts, self.d_att, self.itemsize)
        # In the order of self.mixes: r, w, k, v, a, g
        shifts[0] = self.backward_shifted(b, self.receptance, x, self.mix.x_r, self.mixes[0], NULL, t.dr,
                                          t.d_shifted[0], NULL, t.shifted, t.rest)
        shifts[1] = self.low_rank(b, &t, self.w1, self.w2, RK_TANH, x, self.mix.x_w, self.mixes[1], s.hidden_w, t.dw,
                                  t.d_shifted[1])
        shifts[2] = self.backward_shifted(b, self.key, x, self.mix.x_k, self.mixes[2], NULL, t.dk, t.d_shifted[2],
                                          NULL, t.shifted, t.rest)
        shifts[3] = self.backward_shifted(b, self.value, x, self.mix.x_v, self.mixes[3], NULL, t.dv, t.d_shifted[3],
                                          NULL, t.shifted, t.rest)
        shifts[4] = self.low_rank(b, &t, self.a1, self.a2, RK_AS_IT_IS, x, self.mix.x_a, self.mixes[4], s.hidden_a,
                                  t.da, t.d_shifted[4])
        shifts[5] = self.low_rank(b, &t, self.g1, self.g2, RK_SIGMOID, x, self.mix.x_g, self.mixes[5], s.hidden_g,
                                  t.dg, t.d_shifted[5])
        if not self.mix.first:
            # The same shifted tokens as those of the value.
            self.low_rank(b, &t, self.v1, self.v2, RK_AS_IT_IS, x, self.mix.x_v, self.mixes[3], s.hidden_v, t.dv_mix,
                          t.d_more)
            add(p.ops, t.d_more, p.tokens.count * self.d_model, t.d_shifted[3], p.num_threads)
        self.backward_shifts(p, shifts, LERPS, x, dx)


cdef class ChannelMixGradient(MixGradient):
    """Backward pass of the channel mix.

    Parameters
    ----------
    mix : ChannelMix
    """

    def __init__(self, ChannelMix mix not None):
        super().__init__(mix, mix.xx, lerped=True)
        self.mix = mix
        self.key = self.weight(mix.key, "ffn.key.weight")
        self.value = self.weight(mix.value, "ffn.value.weight")
        self.mix_k = self.parameter("ffn.x_k")

    cdef size_t saved(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        take(&arena, p.tokens.count * self.mix.d_ffn * self.itemsize)
        return arena.used

    cdef ChannelMixScratch carve_scratch(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef ChannelMixScratch t
        cdef size_t model = p.tokens.count * self.d_model * self.itemsize
        cdef size_t ffn = p.tokens.count * self.mix.d_ffn * self.itemsize
        t.shifted, t.d_shifted = take(arena, model), take(arena, model)
        t.hidden, t.dk = take(arena, ffn), take(arena, ffn)
        t.rest = take(arena, self.weights_scratch(p))
        return t

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve_scratch(&arena, p)
        return arena.used

    cdef void record(self, const Pass *p, const char *x, char *saved, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(scratch, 0)
        cdef ChannelMixScratch t = self.carve_scratch(&arena, p)
        # What is saved is k (tokens, d_ffn).
        self.forward_shifted(p, self.key, x, self.mix.x_k, NULL, saved, t.rest)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        cdef rk_product product = self.mix.value.times(saved, t.shifted)
        product.first = RK_RELU_SQUARED
        product.then, product.into = RK_ADD, y
        self.value.forward(p, product, t.rest)

    cdef void backward(self, const Backward *b, const char *x, const char *saved, const char *dy, char *scratch,
                       char *dx) noexcept nogil:
        cdef const Pass *p = &b.forward
        cdef Py_ssize_t count = p.tokens.count * self.mix.d_ffn
        cdef Arena arena = Arena(scratch, 0)
        cdef ChannelMixScratch t = self.carve_scratch(&arena, p)
        self.begin_backward(p, dx)
        # y = V max(k, 0)^2
        if self.value.needs_input(b):
            relu_squared(p.ops, saved, count, t.hidden, p.num_threads)
        self.value.backward(b, t.hidden, self.mix.d_ffn, dy, t.dk, t.rest)
        relu_squared_gradient(p.ops, saved, count, t.dk, p.num_threads)
        self.key_backward(b, x, t.dk, &t, dx)

    cdef void key_backward(self, const Backward *b, const char *x, const char *dk, const ChannelMixScratch *t,
                           char *dx) noexcept nogil:
        cdef rk_shift_gradient shift = self.backward_shifted(b, self.key, x, self.mix.x_k, self.mix_k, NULL, dk,
                                                             t.d_shifted, NULL, t.shifted, t.rest)
        self.backward_shifts(&b.forward, &shift, 1, x, dx)
