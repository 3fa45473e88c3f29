"""The backward pass of the time mix of RWKV-6; that of the channel mix is RWKV-4's."""

from libc.string cimport memcpy

from rwkv_cy.kernels.dispatch cimport (
    RK_TANH, activate, activate_gradient, rk_product, rk_shift_gradient, run_heads, run_heads_gradient,
)
from rwkv_cy.kernels.gradient cimport Backward, Weight
from rwkv_cy.kernels.matrix cimport times
from rwkv_cy.kernels.rwkv5 cimport RK_WKV6, rk_wkv6
from rwkv_cy.kernels.rwkv5_gradient cimport SUMS, rk_wkv6_gradient
from rwkv_cy.kernels.rwkv6 cimport MIXES, TimeMix
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
        self.gate = self.weight(mix.gate, "att.gate.weight")
        self.w1 = self.weight(mix.w1, "att.time_maa_w1", in_out=True)
        self.decay_w1 = self.weight(mix.decay_w1, "att.time_decay_w1", in_out=True)
        self.decay_w2 = self.weight(mix.decay_w2, "att.time_decay_w2", in_out=True)
        # The second factors are the parts of one parameter (MIXES, rank, d_model), the matrices after these.
        part = mix.w2[0].rows * mix.w2[0].cols * self.itemsize
        self.second = &self.of_weights[self.weight_count]
        for i, factor in enumerate(mix._factors):
            self.weight(factor, "att.time_maa_w2", in_out=True, offset=i * part)
        self.mix_x = self.parameter("att.time_maa_x")
        for i, name in enumerate("wkvrg"):
            self.mixes[i] = self.parameter(f"att.time_maa_{name}")
        for i, name in enumerate(("time_decay", "time_faaaa", "ln_x.weight", "ln_x.bias")):
            self.sums[i] = self.parameter(f"att.{name}")

    cdef SavedTimeMix carve(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef SavedTimeMix s
        cdef size_t number = p.tokens.count * self.itemsize
        s.r, s.k = self.take_att(arena, p), self.take_att(arena, p)
        s.v, s.g = self.take_att(arena, p), self.take_att(arena, p)
        s.gated = self.take_att(arena, p)
        s.hidden = take(arena, number * self.mix.w1.m.rows)
        s.hidden_w = take(arena, number * self.mix.decay_w1.m.rows)
        return s

    cdef size_t saved(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve(&arena, p)
        return arena.used

    cdef TimeMixScratch carve_scratch(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef TimeMixScratch t
        cdef int i
        cdef size_t number = p.tokens.count * self.itemsize
        cdef size_t rank = number * self.mix.w1.m.rows
        cdef size_t rank_w = number * self.mix.decay_w1.m.rows
        t.w, t.y = self.take_att(arena, p), self.take_att(arena, p)
        t.dy, t.dr = self.take_att(arena, p), self.take_att(arena, p)
        t.dk, t.dv = self.take_att(arena, p), self.take_att(arena, p)
        t.dw, t.dg = self.take_att(arena, p), self.take_att(arena, p)
        t.activated, t.d_hidden, t.part = take(arena, rank), take(arena, rank), take(arena, rank)
        t.activated_w, t.d_hidden_w = take(arena, rank_w), take(arena, rank_w)
        t.shifted = self.take_model(arena, p)
        for i in range(MIXES):
            t.more[i], t.d_more[i] = self.take_model(arena, p), self.take_model(arena, p)
            t.d_shifted[i] = self.take_model(arena, p)
        t.sums = take(arena, p.tokens.sequence_count * SUMS * self.d_att * self.itemsize)
        t.rest = self.take_rest(arena, p, RK_WKV6, self.mix.call.heads.size)
        return t

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve_scratch(&arena, p)
        return arena.used

    cdef void more(self, const Pass *p, const SavedTimeMix *s, const TimeMixScratch *t) noexcept nogil:
        """more[i] = tanh(hidden[i]) w2[i]"""
        cdef size_t row = self.mix.w1.m.rows // MIXES * self.itemsize
        cdef rk_product product
        cdef int i
        for i in range(MIXES):
            product = times(&(<Weight>self.second[i]).m, s.hidden + i * row, t.more[i])
            product.stride, product.first = self.mix.w1.m.rows, RK_TANH
            (<Weight>self.second[i]).forward(p, product, t.rest)

    cdef void decay(self, const Pass *p, const SavedTimeMix *s, const TimeMixScratch *t) noexcept nogil:
        """w = tanh(hidden_w) decay_w2"""
        cdef rk_product product = self.mix.decay_w2.times(s.hidden_w, t.w)
        product.first = RK_TANH
        self.decay_w2.forward(p, product, t.rest)

    cdef void record(self, const Pass *p, const char *x, char *saved, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(saved, 0)
        cdef SavedTimeMix s = self.carve(&arena, p)
        arena = Arena(scratch, 0)
        cdef TimeMixScratch t = self.carve_scratch(&arena, p)
        cdef const char **maa = self.mix.maa
        self.forward_shifted(p, self.w1, x, self.mix.maa_x, NULL, s.hidden, t.rest)
        self.more(p, &s, &t)
        self.forward_shifted(p, self.decay_w1, x, maa[0], t.more[0], s.hidden_w, t.rest)
        self.forward_shifted(p, self.key, x, maa[1], t.more[1], s.k, t.rest)
        self.forward_shifted(p, self.value, x, maa[2], t.more[2], s.v, t.rest)
        self.forward_shifted(p, self.receptance, x, maa[3], t.more[3], s.r, t.rest)
        self.forward_shifted(p, self.gate, x, maa[4], t.more[4], s.g, t.rest)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        self.decay(p, &s, &t)
        cdef rk_wkv6 call = self.mix.call
        call.r, call.k, call.v, call.w, call.g, call.heads.y = s.r, s.k, s.v, t.w, s.g, s.gated
        run_heads(p.ops, RK_WKV6, &call.heads, &p.tokens, t.rest, p.num_threads)
        self.add_output(p, s.gated, t.shifted, y, t.rest)

    cdef void more_gradient(self, const Backward *b, const TimeMixScratch *t) noexcept nogil:
        """Of more[i] = activated[i] w2[i], compute the gradients of w2[i] and, within d_hidden, of activated[i]."""
        cdef size_t row = self.mix.w1.m.rows // MIXES * self.itemsize
        cdef Py_ssize_t j
        cdef int i
        for i in range(MIXES):
            (<Weight>self.second[i]).backward(b, t.activated + i * row, self.mix.w1.m.rows, t.d_more[i], t.part, t.rest)
            for j in range(b.forward.tokens.count):
                memcpy(t.d_hidden + (j * MIXES + i) * row, t.part + j * row, row)

    cdef void backward(self, const Backward *b, const char *x, const char *saved, const char *dy, char *scratch,
                       char *dx) noexcept nogil:
        cdef const Pass *p = &b.forward
        cdef Py_ssize_t hidden = p.tokens.count * self.mix.w1.m.rows
        cdef Py_ssize_t hidden_w = p.tokens.count * self.mix.decay_w1.m.rows
        cdef const char **maa = self.mix.maa
        cdef Arena arena = Arena(<char *>saved, 0)
        cdef SavedTimeMix s = self.carve(&arena, p)
        arena = Arena(scratch, 0)
        cdef TimeMixScratch t = self.carve_scratch(&arena, p)
        cdef rk_shift_gradient[MIXES] shifts
        self.begin_backward(p, dx)
        self.output.backward(b, s.gated, self.d_att, dy, t.dy, t.rest)
        self.more(p, &s, &t)
        self.decay(p, &s, &t)
        cdef rk_wkv6_gradient call
        call.forward = self.mix.call
        call.forward.r, call.forward.k, call.forward.v = s.r, s.k, s.v
        call.forward.w, call.forward.g, call.forward.heads.y = t.w, s.g, t.y
        call.dy, call.dr, call.dk, call.dv, call.dw, call.dg = t.dy, t.dr, t.dk, t.dv, t.dw, t.dg
        run_heads_gradient(p.ops, RK_WKV6, &call.forward.heads, &p.tokens, t.sums, t.rest, p.num_threads)
        add_sums(b, self.sums, SUMS, t.sums, self.d_att, self.itemsize)
        activate(p.ops, RK_TANH, s.hidden_w, hidden_w, t.activated_w, p.num_threads)
        self.decay_w2.backward(b, t.activated_w, self.mix.decay_w1.m.rows, t.dw, t.d_hidden_w, t.rest)
        activate_gradient(p.ops, RK_TANH, t.activated_w, hidden_w, t.d_hidden_w, p.num_threads)
        # In the order of the mixes: w, k, v, r, g
        shifts[0] = self.backward_shifted(b, self.decay_w1, x, maa[0], self.mixes[0], t.more[0], t.d_hidden_w,
                                          t.d_shifted[0], t.d_more[0], t.shifted, t.rest)
        shifts[1] = self.backward_shifted(b, self.key, x, maa[1], self.mixes[1], t.more[1], t.dk, t.d_shifted[1],
                                          t.d_more[1], t.shifted, t.rest)
        shifts[2] = self.backward_shifted(b, self.value, x, maa[2], self.mixes[2], t.more[2], t.dv, t.d_shifted[2],
                                          t.d_more[2], t.shifted, t.rest)
        shifts[3] = self.backward_shifted(b, self.receptance, x, maa[3], self.mixes[3], t.more[3], t.dr,
                                          t.d_shifted[3], t.d_more[3], t.shifted, t.rest)
        shifts[4] = self.backward_shifted(b, self.gate, x, maa[4], self.mixes[4], t.more[4], t.dg, t.d_shifted[4],
                                          t.d_more[4], t.shifted, t.rest)
        self.backward_shifts(p, shifts, MIXES, x, dx)
        # hidden = lerp(x, xx, maa_x) w1, of which the mixes depend
        activate(p.ops, RK_TANH, s.hidden, hidden, t.activated, p.num_threads)
        self.more_gradient(b, &t)
        activate_gradient(p.ops, RK_TANH, t.activated, hidden, t.d_hidden, p.num_threads)
        shifts[0] = self.backward_shifted(b, self.w1, x, self.mix.maa_x, self.mix_x, NULL, t.d_hidden, t.d_shifted[0],
                                          NULL, t.shifted, t.rest)
        self.backward_shifts(p, shifts, 1, x, dx)
