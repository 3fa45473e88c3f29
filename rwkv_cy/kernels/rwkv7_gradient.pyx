"""The backward pass of the two mixes of RWKV-7."""

from rwkv_cy.kernels.dispatch cimport (
    RK_ADD, RK_AS_IT_IS, RK_LERPED, RK_RELU_SQUARED, RK_SIGMOID, RK_TANH, activate, activate_gradient, add,
    heads_gradient_scratch, heads_scratch, relu_squared, relu_squared_gradient, rk_product, rk_shift_gradient,
    run_heads, run_heads_gradient, shift_gradients, take_last,
)
from rwkv_cy.kernels.gradient cimport Backward, MixGradient, Weight
from rwkv_cy.kernels.rwkv7 cimport RK_WKV7, ChannelMix, TimeMix, rk_wkv7
from rwkv_cy.kernels.stack cimport Arena, Pass, keep_last, shifted, take


cdef class TimeMixGradient(MixGradient):
    """Backward pass of the time mix.

    Parameters
    ----------
    mix : TimeMix
    """

    def __init__(self, TimeMix mix not None):
        super().__init__(mix)
        cdef int i
        self.mix = mix
        self.receptance = self.weight(mix.receptance, "att.receptance.weight")
        self.key = self.weight(mix.key, "att.key.weight")
        self.value = self.weight(mix.value, "att.value.weight")
        self.output = self.weight(mix.output, "att.output.weight")
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
        cdef size_t att = number * self.mix.d_att
        s.r, s.k, s.v, s.gated = take(arena, att), take(arena, att), take(arena, att), take(arena, att)
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
        cdef size_t att = number * self.mix.d_att
        cdef size_t model = number * self.d_model
        cdef Py_ssize_t size = self.mix.call.heads.size
        t.w, t.a, t.g, t.v_mix = take(arena, att), take(arena, att), take(arena, att), take(arena, att)
        t.v_used, t.y = take(arena, att), take(arena, att)
        t.bonus = take(arena, number * self.mix.call.heads.count)
        t.dy, t.dr, t.dk, t.dv = take(arena, att), take(arena, att), take(arena, att), take(arena, att)
        t.dw, t.da, t.dg, t.dv_mix = take(arena, att), take(arena, att), take(arena, att), take(arena, att)
        t.activated, t.d_hidden = take(arena, number * self.most_rank), take(arena, number * self.most_rank)
        t.shifted, t.d_more = take(arena, model), take(arena, model)
        for i in range(LERPS):
            t.d_shifted[i] = take(arena, model)
        t.parts = take(arena, p.tokens.sequence_count * SUMS * self.mix.d_att * self.itemsize)
        cdef size_t rest = max(heads_scratch(p.ops, RK_WKV7, size, p.num_threads),
                               heads_gradient_scratch(p.ops, RK_WKV7, size, &p.tokens, p.num_threads))
        rest = max(rest, max(self.receptance.scratch(p), self.key.scratch(p)))
        rest = max(rest, max(self.value.scratch(p), self.output.scratch(p)))
        rest = max(rest, max(self.w1.scratch(p), self.w2.scratch(p)))
        rest = max(rest, max(self.a1.scratch(p), self.a2.scratch(p)))
        rest = max(rest, max(self.g1.scratch(p), self.g2.scratch(p)))
        if not self.mix.first:
            rest = max(rest, max(self.v1.scratch(p), self.v2.scratch(p)))
        t.rest = take(arena, rest)
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
        cdef size_t xx = self.mix.xx
        self.key.forward(p, shifted(self.mix.key.times(x, s.k), RK_LERPED, self.mix.x_k, xx), t.rest)
        self.value.forward(p, shifted(self.mix.value.times(x, s.v), RK_LERPED, self.mix.x_v, xx), t.rest)
        self.receptance.forward(p, shifted(self.mix.receptance.times(x, s.r), RK_LERPED, self.mix.x_r, xx), t.rest)
        self.w1.forward(p, shifted(self.mix.w1.times(x, s.hidden_w), RK_LERPED, self.mix.x_w, xx), t.rest)
        self.a1.forward(p, shifted(self.mix.a1.times(x, s.hidden_a), RK_LERPED, self.mix.x_a, xx), t.rest)
        self.g1.forward(p, shifted(self.mix.g1.times(x, s.hidden_g), RK_LERPED, self.mix.x_g, xx), t.rest)
        if not self.mix.first:
            self.v1.forward(p, shifted(self.mix.v1.times(x, s.hidden_v), RK_LERPED, self.mix.x_v, xx), t.rest)
        keep_last(p, x, self.d_model * self.itemsize, xx)
        self.second_products(p, &s, &t)
        cdef rk_wkv7 call = self.forward_call(p, &s, &t)
        call.heads.y = s.gated
        run_heads(p.ops, RK_WKV7, &call.heads, &p.tokens, t.rest, p.num_threads)
        cdef rk_product product = self.mix.output.times(s.gated, t.shifted)
        product.then, product.into = RK_ADD, y
        self.output.forward(p, product, t.rest)

    cdef void low_rank(self, const Backward *b, const TimeMixScratch *t, Weight first, Weight second, int activation,
                       const char *x, const char *mix, const char *hidden, const char *dy,
                       char *d_shifted) noexcept nogil:
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
        first.backward_shifted(b, True, x, mix, NULL, self.mix.xx, t.d_hidden, d_shifted, t.shifted, t.rest)

    cdef void backward(self, const Backward *b, const char *x, const char *saved, const char *dy, char *scratch,
                       char *dx) noexcept nogil:
        cdef const Pass *p = &b.forward
        cdef Py_ssize_t width = self.mix.d_att
        cdef Arena arena = Arena(<char *>saved, 0)
        cdef SavedTimeMix s = self.carve(&arena, p)
        arena = Arena(scratch, 0)
        cdef TimeMixScratch t = self.carve_scratch(&arena, p)
        cdef rk_shift_gradient[LERPS] shifts
        cdef size_t xx = self.mix.xx
        cdef int i
        take_last(p.ops, &p.tokens, self.d_model, xx, dx)
        self.output.backward(b, s.gated, width, dy, t.dy, t.rest)
        self.second_products(p, &s, &t)
        cdef rk_wkv7_gradient call
        call.forward = self.forward_call(p, &s, &t)
        call.forward.heads.y = t.y
        call.dy, call.dr, call.dw, call.dk, call.da, call.dg = t.dy, t.dr, t.dw, t.dk, t.da, t.dg
        call.dv_mix, call.dv, call.dv_first = t.dv_mix, t.dv, b.d_shared
        run_heads_gradient(p.ops, RK_WKV7, &call.forward.heads, &p.tokens, t.parts, t.rest, p.num_threads)
        for i in range(SUMS):
            if self.sums[i] >= 0 and b.gradients[self.sums[i]] != NULL:
                add(p.ops, t.parts + i * width * self.itemsize, width, b.gradients[self.sums[i]], p.num_threads)
        # In the order of self.mixes: r, w, k, v, a, g
        self.receptance.backward_shifted(b, True, x, self.mix.x_r, NULL, xx, t.dr, t.d_shifted[0], t.shifted, t.rest)
        self.low_rank(b, &t, self.w1, self.w2, RK_TANH, x, self.mix.x_w, s.hidden_w, t.dw, t.d_shifted[1])
        self.key.backward_shifted(b, True, x, self.mix.x_k, NULL, xx, t.dk, t.d_shifted[2], t.shifted, t.rest)
        self.value.backward_shifted(b, True, x, self.mix.x_v, NULL, xx, t.dv, t.d_shifted[3], t.shifted, t.rest)
        self.low_rank(b, &t, self.a1, self.a2, RK_AS_IT_IS, x, self.mix.x_a, s.hidden_a, t.da, t.d_shifted[4])
        self.low_rank(b, &t, self.g1, self.g2, RK_SIGMOID, x, self.mix.x_g, s.hidden_g, t.dg, t.d_shifted[5])
        if not self.mix.first:
            self.low_rank(b, &t, self.v1, self.v2, RK_AS_IT_IS, x, self.mix.x_v, s.hidden_v, t.dv_mix, t.d_more)
            add(p.ops, t.d_more, p.tokens.count * self.d_model, t.d_shifted[3], p.num_threads)
        cdef const char **mixes = [self.mix.x_r, self.mix.x_w, self.mix.x_k, self.mix.x_v, self.mix.x_a, self.mix.x_g]
        for i in range(LERPS):
            shifts[i] = rk_shift_gradient(mixes[i], NULL, t.d_shifted[i], b.gradients[self.mixes[i]], NULL)
        shift_gradients(p.ops, shifts, LERPS, True, x, xx, &p.tokens, self.d_model, dx, p.num_threads)


cdef class ChannelMixGradient(MixGradient):
    """Backward pass of the channel mix.

    Parameters
    ----------
    mix : ChannelMix
    """

    def __init__(self, ChannelMix mix not None):
        super().__init__(mix)
        self.mix = mix
        self.key = self.weight(mix.key, "ffn.key.weight")
        self.value = self.weight(mix.value, "ffn.value.weight")
        self.mix_k = self.parameter("ffn.x_k")

    cdef size_t saved(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        take(&arena, p.tokens.count * self.mix.d_ffn * self.itemsize)
        return arena.used

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        cdef size_t number = p.tokens.count * self.itemsize
        take(&arena, number * self.d_model)
        take(&arena, number * self.mix.d_ffn)
        take(&arena, number * self.d_model)
        take(&arena, number * self.mix.d_ffn)
        take(&arena, max(self.key.scratch(p), self.value.scratch(p)))
        return arena.used

    cdef void record(self, const Pass *p, const char *x, char *saved, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(scratch, 0)
        cdef char *mixed = take(&arena, p.tokens.count * self.d_model * self.itemsize)
        cdef char *rest = take(&arena, 0)
        # What is saved is k (tokens, d_ffn).
        self.key.forward(p, shifted(self.mix.key.times(x, saved), RK_LERPED, self.mix.x_k, self.mix.xx), rest)
        keep_last(p, x, self.d_model * self.itemsize, self.mix.xx)
        cdef rk_product product = self.mix.value.times(saved, mixed)
        product.first = RK_RELU_SQUARED
        product.then, product.into = RK_ADD, y
        self.value.forward(p, product, rest)

    cdef void backward(self, const Backward *b, const char *x, const char *saved, const char *dy, char *scratch,
                       char *dx) noexcept nogil:
        cdef const Pass *p = &b.forward
        cdef size_t number = p.tokens.count * self.itemsize
        cdef Py_ssize_t count = p.tokens.count * self.mix.d_ffn
        cdef Arena arena = Arena(scratch, 0)
        cdef char *shifted_x = take(&arena, number * self.d_model)
        cdef char *hidden = take(&arena, number * self.mix.d_ffn)
        cdef char *d_shifted = take(&arena, number * self.d_model)
        cdef char *dk = take(&arena, number * self.mix.d_ffn)
        cdef char *rest = take(&arena, 0)
        take_last(p.ops, &p.tokens, self.d_model, self.mix.xx, dx)
        # y = V max(k, 0)^2
        if self.value.needs_input(b):
            relu_squared(p.ops, saved, count, hidden, p.num_threads)
        self.value.backward(b, hidden, self.mix.d_ffn, dy, dk, rest)
        relu_squared_gradient(p.ops, saved, count, dk, p.num_threads)
        self.key.backward_shifted(b, True, x, self.mix.x_k, NULL, self.mix.xx, dk, d_shifted, shifted_x, rest)
        cdef rk_shift_gradient shift = rk_shift_gradient(self.mix.x_k, NULL, d_shifted, b.gradients[self.mix_k], NULL)
        shift_gradients(p.ops, &shift, 1, True, x, self.mix.xx, &p.tokens, self.d_model, dx, p.num_threads)
