"""The backward pass of the time mix of RWKV-5; that of the channel mix is RWKV-4's."""

from cython cimport floating

from rwkv_cy.kernels.dispatch cimport (
    RK_ADD, RK_SHIFTED, add, heads_gradient_scratch, heads_scratch, rk_product, rk_shift_gradient, run_heads,
    run_heads_gradient, shift_gradients, take_last,
)
from rwkv_cy.kernels.gradient cimport Backward, MixGradient
from rwkv_cy.kernels.rwkv5 cimport RK_WKV6, TimeMix, rk_wkv6
from rwkv_cy.kernels.stack cimport Arena, Pass, keep_last, shifted, take


cdef void add_sums(const Backward *b, const int *parameters, int count, const char *sums, Py_ssize_t width,
                   size_t itemsize) noexcept nogil:
    cdef int i
    for i in range(count):
        if b.gradients[parameters[i]] != NULL:
            add(b.forward.ops, sums + i * width * itemsize, width, b.gradients[parameters[i]], b.forward.num_threads)


cdef void _scale(floating *x, const floating *factors, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        x[i] *= factors[i]


cdef void _add_by_head(const floating *x, Py_ssize_t heads, Py_ssize_t size, floating *y) noexcept nogil:
    """Add the sum of each head's channels."""
    cdef Py_ssize_t h, i
    for h in range(heads):
        for i in range(size):
            y[h] += x[h * size + i]


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
        self.mix_k = self.parameter("att.time_mix_k")
        self.mix_v = self.parameter("att.time_mix_v")
        self.mix_r = self.parameter("att.time_mix_r")
        if mix.mix_g != NULL:
            self.gate = self.weight(mix.gate, "att.gate.weight")
            self.mix_g = self.parameter("att.time_mix_g")
        for i, name in enumerate(("time_decay", "time_faaaa", "ln_x.weight", "ln_x.bias")):
            self.sums[i] = self.parameter(f"att.{name}")

    cdef SavedTimeMix carve(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef SavedTimeMix s
        cdef size_t att = p.tokens.count * self.mix.d_att * self.itemsize
        s.r, s.k, s.v, s.gated = take(arena, att), take(arena, att), take(arena, att), take(arena, att)
        s.g = NULL if self.mix.mix_g == NULL else take(arena, att)
        return s

    cdef size_t saved(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve(&arena, p)
        return arena.used

    cdef TimeMixScratch carve_scratch(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef TimeMixScratch t
        cdef int i
        cdef size_t att = p.tokens.count * self.mix.d_att * self.itemsize
        cdef size_t model = p.tokens.count * self.d_model * self.itemsize
        cdef Py_ssize_t size = self.mix.call.heads.size
        t.y, t.dy = take(arena, att), take(arena, att)
        t.dr, t.dk, t.dv, t.dg = take(arena, att), take(arena, att), take(arena, att), take(arena, att)
        t.shifted = take(arena, model)
        for i in range(SHIFTS):
            t.d_shifted[i] = take(arena, model)
        t.sums = take(arena, p.tokens.sequence_count * SUMS * self.mix.d_att * self.itemsize)
        cdef size_t rest = max(heads_scratch(p.ops, RK_WKV6, size, p.num_threads),
                               heads_gradient_scratch(p.ops, RK_WKV6, size, &p.tokens, p.num_threads))
        rest = max(rest, max(self.receptance.scratch(p), self.key.scratch(p)))
        rest = max(rest, max(self.value.scratch(p), self.output.scratch(p)))
        if self.mix.mix_g != NULL:
            rest = max(rest, self.gate.scratch(p))
        t.rest = take(arena, rest)
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
        cdef size_t xx = self.mix.xx
        self.key.forward(p, shifted(self.mix.key.times(x, s.k), RK_SHIFTED, self.mix.mix_k, xx), t.rest)
        self.value.forward(p, shifted(self.mix.value.times(x, s.v), RK_SHIFTED, self.mix.mix_v, xx), t.rest)
        self.receptance.forward(p, shifted(self.mix.receptance.times(x, s.r), RK_SHIFTED, self.mix.mix_r, xx), t.rest)
        if s.g != NULL:
            self.gate.forward(p, shifted(self.mix.gate.times(x, s.g), RK_SHIFTED, self.mix.mix_g, xx), t.rest)
        keep_last(p, x, self.d_model * self.itemsize, xx)
        cdef rk_wkv6 call = self.mix.call
        call.r, call.k, call.v, call.g, call.heads.y = s.r, s.k, s.v, s.g, s.gated
        run_heads(p.ops, RK_WKV6, &call.heads, &p.tokens, t.rest, p.num_threads)
        cdef rk_product product = self.mix.output.times(s.gated, t.shifted)
        product.then, product.into = RK_ADD, y
        self.output.forward(p, product, t.rest)

    cdef void add_all_sums(self, const Backward *b, char *sums) noexcept nogil:
        """Add the sums over all tokens to the gradients; those of the decay become time_decay's."""
        cdef Py_ssize_t heads = self.mix.call.heads.count
        cdef Py_ssize_t size = self.mix.call.heads.size
        cdef Py_ssize_t width = self.mix.d_att
        cdef int done = 0
        if self.itemsize == sizeof(double):
            _scale(<double *>sums, <const double *>self.mix.decay_slope, width)
        else:
            _scale(<float *>sums, <const float *>self.mix.decay_slope, width)
        while self.mix.by_head and done < 2:     # of the decay and of the bonus
            if b.gradients[self.sums[done]] != NULL:
                if self.itemsize == sizeof(double):
                    _add_by_head(<double *>sums, heads, size, <double *>b.gradients[self.sums[done]])
                else:
                    _add_by_head(<float *>sums, heads, size, <float *>b.gradients[self.sums[done]])
            sums += width * self.itemsize
            done += 1
        add_sums(b, &self.sums[done], SUMS - done, sums, width, self.itemsize)

    cdef void backward(self, const Backward *b, const char *x, const char *saved, const char *dy, char *scratch,
                       char *dx) noexcept nogil:
        cdef const Pass *p = &b.forward
        cdef Arena arena = Arena(<char *>saved, 0)
        cdef SavedTimeMix s = self.carve(&arena, p)
        arena = Arena(scratch, 0)
        cdef TimeMixScratch t = self.carve_scratch(&arena, p)
        cdef size_t xx = self.mix.xx
        cdef rk_shift_gradient[SHIFTS] shifts
        cdef int count = 3
        take_last(p.ops, &p.tokens, self.d_model, xx, dx)
        self.output.backward(b, s.gated, self.mix.d_att, dy, t.dy, t.rest)
        cdef rk_wkv6_gradient call
        call.forward = self.mix.call
        call.forward.r, call.forward.k, call.forward.v, call.forward.g = s.r, s.k, s.v, s.g
        call.forward.heads.y = t.y
        call.dy, call.dr, call.dk, call.dv, call.dw, call.dg = t.dy, t.dr, t.dk, t.dv, NULL, t.dg
        run_heads_gradient(p.ops, RK_WKV6, &call.forward.heads, &p.tokens, t.sums, t.rest, p.num_threads)
        self.add_all_sums(b, t.sums)
        self.key.backward_shifted(b, False, x, self.mix.mix_k, NULL, xx, t.dk, t.d_shifted[0], t.shifted, t.rest)
        self.value.backward_shifted(b, False, x, self.mix.mix_v, NULL, xx, t.dv, t.d_shifted[1], t.shifted, t.rest)
        self.receptance.backward_shifted(b, False, x, self.mix.mix_r, NULL, xx, t.dr, t.d_shifted[2], t.shifted, t.rest)
        shifts[0] = rk_shift_gradient(self.mix.mix_k, NULL, t.d_shifted[0], b.gradients[self.mix_k], NULL)
        shifts[1] = rk_shift_gradient(self.mix.mix_v, NULL, t.d_shifted[1], b.gradients[self.mix_v], NULL)
        shifts[2] = rk_shift_gradient(self.mix.mix_r, NULL, t.d_shifted[2], b.gradients[self.mix_r], NULL)
        if s.g != NULL:
            self.gate.backward_shifted(b, False, x, self.mix.mix_g, NULL, xx, t.dg, t.d_shifted[3], t.shifted, t.rest)
            shifts[3] = rk_shift_gradient(self.mix.mix_g, NULL, t.d_shifted[3], b.gradients[self.mix_g], NULL)
            count = 4
        shift_gradients(p.ops, shifts, count, False, x, xx, &p.tokens, self.d_model, dx, p.num_threads)
