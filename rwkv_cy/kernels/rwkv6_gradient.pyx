"""The backward pass of the time mix of RWKV-6; that of the channel mix is RWKV-4's."""

from libc.string cimport memcpy

from rwkv_cy.kernels.dispatch cimport (
    RK_ADD, RK_LERPED, RK_TANH, activate, activate_gradient, heads_gradient_scratch, heads_scratch, rk_product,
    rk_shift_gradient, run_heads, run_heads_gradient, shift_gradients, take_last,
)
from rwkv_cy.kernels.gradient cimport Backward, MixGradient, Weight
from rwkv_cy.kernels.matrix cimport times
from rwkv_cy.kernels.rwkv5 cimport RK_WKV6, rk_wkv6
from rwkv_cy.kernels.rwkv5_gradient cimport SUMS, add_sums, rk_wkv6_gradient
from rwkv_cy.kernels.rwkv6 cimport MIXES, TimeMix
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
        self.gate = self.weight(mix.gate, "att.gate.weight")
        self.output = self.weight(mix.output, "att.output.weight")
        self.w1 = self.weight(mix.w1, "att.time_maa_w1", in_out=True)
        # The second factors are the parts of one parameter (MIXES, rank, d_model).
        part = mix.w2[0].rows * mix.w2[0].cols * self.itemsize
        self.second_w, self.second_k, self.second_v, self.second_r, self.second_g = (
            self.weight(factor, "att.time_maa_w2", in_out=True, offset=index * part)
            for index, factor in enumerate(mix._factors)
        )
        self.decay_w1 = self.weight(mix.decay_w1, "att.time_decay_w1", in_out=True)
        self.decay_w2 = self.weight(mix.decay_w2, "att.time_decay_w2", in_out=True)
        self.mix_x = self.parameter("att.time_maa_x")
        for i, name in enumerate("wkvrg"):
            self.mixes[i] = self.parameter(f"att.time_maa_{name}")
        for i, name in enumerate(("time_decay", "time_faaaa", "ln_x.weight", "ln_x.bias")):
            self.sums[i] = self.parameter(f"att.{name}")

    cdef SavedTimeMix carve(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef SavedTimeMix s
        cdef size_t number = p.tokens.count * self.itemsize
        cdef size_t att = number * self.mix.d_att
        s.r, s.k, s.v, s.g = take(arena, att), take(arena, att), take(arena, att), take(arena, att)
        s.gated = take(arena, att)
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
        cdef size_t att = number * self.mix.d_att
        cdef size_t model = number * self.d_model
        cdef size_t rank = number * self.mix.w1.m.rows
        cdef size_t rank_w = number * self.mix.decay_w1.m.rows
        cdef Py_ssize_t size = self.mix.call.heads.size
        t.w, t.y, t.dy, t.dr = take(arena, att), take(arena, att), take(arena, att), take(arena, att)
        t.dk, t.dv, t.dw, t.dg = take(arena, att), take(arena, att), take(arena, att), take(arena, att)
        t.activated, t.d_hidden, t.part = take(arena, rank), take(arena, rank), take(arena, rank)
        t.activated_w, t.d_hidden_w = take(arena, rank_w), take(arena, rank_w)
        t.shifted = take(arena, model)
        for i in range(MIXES):
            t.more[i], t.d_more[i], t.d_shifted[i] = take(arena, model), take(arena, model), take(arena, model)
        t.sums = take(arena, p.tokens.sequence_count * SUMS * self.mix.d_att * self.itemsize)
        cdef size_t rest = max(heads_scratch(p.ops, RK_WKV6, size, p.num_threads),
                               heads_gradient_scratch(p.ops, RK_WKV6, size, &p.tokens, p.num_threads))
        rest = max(rest, max(self.receptance.scratch(p), self.key.scratch(p)))
        rest = max(rest, max(self.value.scratch(p), self.gate.scratch(p)))
        rest = max(rest, max(self.output.scratch(p), self.w1.scratch(p)))
        rest = max(rest, max(self.decay_w1.scratch(p), self.decay_w2.scratch(p)))
        t.rest = take(arena, max(rest, self.second_w.scratch(p)))
        return t

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve_scratch(&arena, p)
        return arena.used

    cdef void more(self, const Pass *p, const SavedTimeMix *s, const TimeMixScratch *t, Weight second,
                   int i) noexcept nogil:
        """more[i] = tanh(hidden[i]) w2[i]"""
        cdef rk_product product = times(&second.m, s.hidden + i * second.m.cols * self.itemsize, t.more[i])
        product.stride, product.first = self.mix.w1.m.rows, RK_TANH
        second.forward(p, product, t.rest)

    cdef void all_more(self, const Pass *p, const SavedTimeMix *s, const TimeMixScratch *t) noexcept nogil:
        self.more(p, s, t, self.second_w, 0)
        self.more(p, s, t, self.second_k, 1)
        self.more(p, s, t, self.second_v, 2)
        self.more(p, s, t, self.second_r, 3)
        self.more(p, s, t, self.second_g, 4)

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
        cdef rk_product[MIXES] products
        cdef int i
        self.w1.forward(p, shifted(self.mix.w1.times(x, s.hidden), RK_LERPED, self.mix.maa_x, self.mix.xx), t.rest)
        self.all_more(p, &s, &t)
        products[0] = self.mix.decay_w1.times(x, s.hidden_w)
        products[1] = self.mix.key.times(x, s.k)
        products[2] = self.mix.value.times(x, s.v)
        products[3] = self.mix.receptance.times(x, s.r)
        products[4] = self.mix.gate.times(x, s.g)
        for i in range(MIXES):
            products[i] = shifted(products[i], RK_LERPED, self.mix.maa[i], self.mix.xx)
            products[i].more = t.more[i]
        self.decay_w1.forward(p, products[0], t.rest)
        self.key.forward(p, products[1], t.rest)
        self.value.forward(p, products[2], t.rest)
        self.receptance.forward(p, products[3], t.rest)
        self.gate.forward(p, products[4], t.rest)
        keep_last(p, x, self.d_model * self.itemsize, self.mix.xx)
        self.decay(p, &s, &t)
        cdef rk_wkv6 call = self.mix.call
        call.r, call.k, call.v, call.w, call.g, call.heads.y = s.r, s.k, s.v, t.w, s.g, s.gated
        run_heads(p.ops, RK_WKV6, &call.heads, &p.tokens, t.rest, p.num_threads)
        cdef rk_product product = self.mix.output.times(s.gated, t.shifted)
        product.then, product.into = RK_ADD, y
        self.output.forward(p, product, t.rest)

    cdef void more_gradient(self, const Backward *b, const TimeMixScratch *t, Weight second, int i) noexcept nogil:
        """Of more[i] = activated[i] w2[i], compute the gradients of w2[i] and, within d_hidden, of activated[i]."""
        cdef size_t row = second.m.cols * self.itemsize
        cdef Py_ssize_t j
        second.backward(b, t.activated + i * row, self.mix.w1.m.rows, t.d_more[i], t.part, t.rest)
        for j in range(b.forward.tokens.count):
            memcpy(t.d_hidden + (j * MIXES + i) * row, t.part + j * row, row)

    cdef void backward(self, const Backward *b, const char *x, const char *saved, const char *dy, char *scratch,
                       char *dx) noexcept nogil:
        cdef const Pass *p = &b.forward
        cdef Py_ssize_t width = self.mix.d_att
        cdef Py_ssize_t hidden = p.tokens.count * self.mix.w1.m.rows
        cdef Py_ssize_t hidden_w = p.tokens.count * self.mix.decay_w1.m.rows
        cdef size_t xx = self.mix.xx
        cdef const char **maa = self.mix.maa
        cdef Arena arena = Arena(<char *>saved, 0)
        cdef SavedTimeMix s = self.carve(&arena, p)
        arena = Arena(scratch, 0)
        cdef TimeMixScratch t = self.carve_scratch(&arena, p)
        cdef rk_shift_gradient[MIXES] shifts
        cdef int i
        take_last(p.ops, &p.tokens, self.d_model, xx, dx)
        self.output.backward(b, s.gated, width, dy, t.dy, t.rest)
        self.all_more(p, &s, &t)
        self.decay(p, &s, &t)
        cdef rk_wkv6_gradient call
        call.forward = self.mix.call
        call.forward.r, call.forward.k, call.forward.v = s.r, s.k, s.v
        call.forward.w, call.forward.g, call.forward.heads.y = t.w, s.g, t.y
        call.dy, call.dr, call.dk, call.dv, call.dw, call.dg = t.dy, t.dr, t.dk, t.dv, t.dw, t.dg
        run_heads_gradient(p.ops, RK_WKV6, &call.forward.heads, &p.tokens, t.sums, t.rest, p.num_threads)
        add_sums(b, self.sums, SUMS, t.sums, width, self.itemsize)
        activate(p.ops, RK_TANH, s.hidden_w, hidden_w, t.activated_w, p.num_threads)
        self.decay_w2.backward(b, t.activated_w, self.mix.decay_w1.m.rows, t.dw, t.d_hidden_w, t.rest)
        activate_gradient(p.ops, RK_TANH, t.activated_w, hidden_w, t.d_hidden_w, p.num_threads)
        # In the order of the mixes: w, k, v, r, g
        self.decay_w1.backward_shifted(b, True, x, maa[0], t.more[0], xx, t.d_hidden_w, t.d_shifted[0], t.shifted,
                                       t.rest)
        self.key.backward_shifted(b, True, x, maa[1], t.more[1], xx, t.dk, t.d_shifted[1], t.shifted, t.rest)
        self.value.backward_shifted(b, True, x, maa[2], t.more[2], xx, t.dv, t.d_shifted[2], t.shifted, t.rest)
        self.receptance.backward_shifted(b, True, x, maa[3], t.more[3], xx, t.dr, t.d_shifted[3], t.shifted, t.rest)
        self.gate.backward_shifted(b, True, x, maa[4], t.more[4], xx, t.dg, t.d_shifted[4], t.shifted, t.rest)
        for i in range(MIXES):
            shifts[i] = rk_shift_gradient(maa[i], t.more[i], t.d_shifted[i], b.gradients[self.mixes[i]], t.d_more[i])
        shift_gradients(p.ops, shifts, MIXES, True, x, xx, &p.tokens, self.d_model, dx, p.num_threads)
        # hidden = lerp(x, xx, maa_x) w1, of which the mixes depend
        activate(p.ops, RK_TANH, s.hidden, hidden, t.activated, p.num_threads)
        self.more_gradient(b, &t, self.second_w, 0)
        self.more_gradient(b, &t, self.second_k, 1)
        self.more_gradient(b, &t, self.second_v, 2)
        self.more_gradient(b, &t, self.second_r, 3)
        self.more_gradient(b, &t, self.second_g, 4)
        activate_gradient(p.ops, RK_TANH, t.activated, hidden, t.d_hidden, p.num_threads)
        self.w1.backward_shifted(b, True, x, self.mix.maa_x, NULL, xx, t.d_hidden, t.d_shifted[0], t.shifted, t.rest)
        shifts[0] = rk_shift_gradient(self.mix.maa_x, NULL, t.d_shifted[0], b.gradients[self.mix_x], NULL)
        shift_gradients(p.ops, shifts, 1, True, x, xx, &p.tokens, self.d_model, dx, p.num_threads)
