"""The time mix of RWKV-6; the channel mix is that of RWKV-4 with another token shift."""

from rwkv_cy.records import replace

from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.matrix import make_low_rank, make_matrix

from rwkv_cy.kernels.dispatch cimport (
    RK_LERPED, RK_TANH, heads_scratch, matmul, matmul_scratch, rk_product, run_heads,
)
from rwkv_cy.kernels.matrix cimport Matrix, times
from rwkv_cy.kernels.stack cimport Arena, Pass, keep_last, product_scratch, shifted, take
from rwkv_cy.kernels.time_mix cimport BaseTimeMix, heads_of


cdef class TimeMix(BaseTimeMix):
    """Time mix: token shift with low-rank mixes, low-rank decay, WKV, GroupNorm, gate, output matrix.

    Parameters
    ----------
    config, offsets, parameters, output_scale, activations
        As for :class:`rwkv_cy.kernels.time_mix.BaseTimeMix`.
    """

    def __init__(self, config, offsets, parameters, output_scale, activations):
        super().__init__(config, offsets, parameters, output_scale, activations)
        cdef Matrix factor
        cdef int i
        real = config.compute_dtype
        self.call.heads = heads_of(self, config, offsets, parameters)
        self.gate = make_matrix(parameters["att.gate.weight"], real, 1.0, activations)
        self.w1 = make_low_rank(parameters["att.time_maa_w1"], real, activations)
        second = parameters["att.time_maa_w2"]
        expected = (MIXES, self.w1.m.rows // MIXES, self.d_model)
        if self.w1.m.rows % MIXES or second.array.shape != expected:
            raise KernelError(f"TimeMix: expected time_maa_w2 {expected}, got {second.array.shape}")
        self._factors = [make_low_rank(replace(second, array=array), real, activations) for array in second.array]
        self.maa_x = self.vector(parameters, "att.time_maa_x", real)
        for i, name in enumerate("wkvrg"):
            factor = self._factors[i]
            self.w2[i] = factor.m
            self.maa[i] = self.vector(parameters, f"att.time_maa_{name}", real)
        self.decay_w1 = make_low_rank(parameters["att.time_decay_w1"], real, activations)
        self.decay_w2 = make_low_rank(parameters["att.time_decay_w2"], real, activations)
        self.call.decay = self.vector(parameters, "att.time_decay", real)
        self.call.u = self.vector(parameters, "att.time_faaaa", real)

    cdef TimeMixBuffers carve(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef TimeMixBuffers b
        cdef int i
        cdef size_t number = p.tokens.count * self.itemsize
        cdef size_t att = number * self.d_att
        cdef size_t second = 0
        cdef size_t third = (product_scratch(p, self.receptance) + product_scratch(p, self.key)
                             + product_scratch(p, self.value) + product_scratch(p, self.gate)
                             + product_scratch(p, self.decay_w1))
        b.r, b.k, b.v = take(arena, att), take(arena, att), take(arena, att)
        b.w, b.g = take(arena, att), take(arena, att)
        b.hidden = take(arena, number * self.w1.m.rows)
        b.hidden_w = take(arena, number * self.decay_w1.m.rows)
        for i in range(MIXES):
            b.more[i] = take(arena, number * self.d_model)
            second += matmul_scratch(p.ops, &self.w2[i], p.tokens.count, p.num_threads)
        b.wkv = take(arena, heads_scratch(p.ops, RK_WKV6, self.call.heads.size, p.num_threads))
        b.rest = take(arena, max(max(product_scratch(p, self.w1), second),
                                 max(third, product_scratch(p, self.decay_w2))))
        return b

    cdef size_t wkv_scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve(&arena, p)
        return arena.used

    cdef void wkv(self, const Pass *p, const char *x, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(scratch, 0)
        cdef TimeMixBuffers b = self.carve(&arena, p)
        cdef rk_product[MIXES] products
        cdef int i
        cdef int count = MIXES if y != NULL else 3     # without outputs, r and g have no use
        # hidden = lerp(x, xx, maa_x) w1
        products[0] = shifted(self.w1.times(x, b.hidden), RK_LERPED, self.maa_x, self.xx)
        matmul(p.ops, products, 1, &p.tokens, b.rest, p.num_threads)
        # more[i] = tanh(hidden[i]) w2[i]
        for i in range(count):
            products[i] = times(&self.w2[i], b.hidden + i * self.w2[i].cols * self.itemsize, b.more[i])
            products[i].stride, products[i].first = self.w1.m.rows, RK_TANH
        matmul(p.ops, products, count, &p.tokens, b.rest, p.num_threads)
        # k = K lerp(x, xx, maa_k + more_k), and the others likewise
        products[0] = self.decay_w1.times(x, b.hidden_w)
        products[1] = self.key.times(x, b.k)
        products[2] = self.value.times(x, b.v)
        products[3] = self.receptance.times(x, b.r)
        products[4] = self.gate.times(x, b.g)
        for i in range(count):
            products[i] = shifted(products[i], RK_LERPED, self.maa[i], self.xx)
            products[i].more = b.more[i]
        self.multiply(p, products, count, b.rest)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        # w = tanh(hidden_w) decay_w2
        products[0] = self.decay_w2.times(b.hidden_w, b.w)
        products[0].first = RK_TANH
        matmul(p.ops, products, 1, &p.tokens, b.rest, p.num_threads)
        cdef rk_wkv6 call = self.call
        call.r, call.k, call.v, call.w, call.g = b.r, b.k, b.v, b.w, b.g
        call.heads.y = y
        run_heads(p.ops, RK_WKV6, &call.heads, &p.tokens, b.wkv, p.num_threads)
