"""The backward pass of the time mix of RWKV-5; that of the channel mix is RWKV-4's."""

from cython cimport floating

from rwkv_cy.kernels.dispatch cimport rk_shift_gradient, run_heads, run_heads_gradient
from rwkv_cy.kernels.gradient cimport Backward
from rwkv_cy.kernels.rwkv5 cimport RK_WKV6, TimeMix, rk_wkv6
from rwkv_cy.kernels.stack cimport Arena, Pass, keep_last, take
from rwkv_cy.kernels.time_mix_gradient cimport BaseTimeMixGradient, add_sums


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


cdef class TimeMixGradient(BaseTimeMixGradient):
    """Backward pass of the time mix.

    Parameters
    ----------
    mix : TimeMix
    """

    def __init__(self, TimeMix mix not None):
        super().__init__(mix, lerped=False)
        cdef int i
        self.mix = mix
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
        s.r, s.k = self.take_att(arena, p), self.take_att(arena, p)
        s.v, s.gated = self.take_att(arena, p), self.take_att(arena, p)
        s.g = NULL if self.mix.mix_g == NULL else self.take_att(arena, p)
        return s

    cdef size_t saved(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve(&arena, p)
        return arena.used

    cdef TimeMixScratch carve_scratch(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef TimeMixScratch t
        cdef int i
        t.y, t.dy = self.take_att(arena, p), self.take_att(arena, p)
        t.dr, t.dk = self.take_att(arena, p), self.take_att(arena, p)
        t.dv, t.dg = self.take_att(arena, p), self.take_att(arena, p)
        t.shifted = self.take_model(arena, p)
        for i in range(SHIFTS):
            t.d_shifted[i] = self.take_model(arena, p)
        t.sums = take(arena, p.tokens.sequence_count * SUMS * self.d_att * self.itemsize)
        t.rest = self.take_rest(arena, p, RK_WKV6, self.mix.call.heads.size)
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
        if s.g != NULL:
            self.forward_shifted(p, self.gate, x, self.mix.mix_g, NULL, s.g, t.rest)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        cdef rk_wkv6 call = self.mix.call
        call.r, call.k, call.v, call.g, call.heads.y = s.r, s.k, s.v, s.g, s.gated
        run_heads(p.ops, RK_WKV6, &call.heads, &p.tokens, t.rest, p.num_threads)
        self.add_output(p, s.gated, t.shifted, y, t.rest)

    cdef void add_all_sums(self, const Backward *b, char *sums) noexcept nogil:
        """Add the sums over all tokens to the gradients; those of the decay become time_decay's."""
        cdef Py_ssize_t heads = self.mix.call.heads.count
        cdef Py_ssize_t size = self.mix.call.heads.size
        cdef Py_ssize_t width = self.d_att
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
        cdef rk_shift_gradient[SHIFTS] shifts
        cdef int count = 3
        self.begin_backward(p, dx)
        self.output.backward(b, s.gated, self.d_att, dy, t.dy, t.rest)
        cdef rk_wkv6_gradient call
        call.forward = self.mix.call
        call.forward.r, call.forward.k, call.forward.v, call.forward.g = s.r, s.k, s.v, s.g
        call.forward.heads.y = t.y
        call.dy, call.dr, call.dk, call.dv, call.dw, call.dg = t.dy, t.dr, t.dk, t.dv, NULL, t.dg
        run_heads_gradient(p.ops, RK_WKV6, &call.forward.heads, &p.tokens, t.sums, t.rest, p.num_threads)
        self.add_all_sums(b, t.sums)
        shifts[0] = self.backward_shifted(b, self.key, x, self.mix.mix_k, self.mix_k, NULL, t.dk, t.d_shifted[0], NULL,
                                          t.shifted, t.rest)
        shifts[1] = self.backward_shifted(b, self.value, x, self.mix.mix_v, self.mix_v, NULL, t.dv, t.d_shifted[1],
                                          NULL, t.shifted, t.rest)
        shifts[2] = self.backward_shifted(b, self.receptance, x, self.mix.mix_r, self.mix_r, NULL, t.dr,
                                          t.d_shifted[2], NULL, t.shifted, t.rest)
        if s.g != NULL:
            shifts[3] = self.backward_shifted(b, self.gate, x, self.mix.mix_g, self.mix_g, NULL, t.dg, t.d_shifted[3],
                                              NULL, t.shifted, t.rest)
            count = 4
        self.backward_shifts(p, shifts, count, x, dx)
