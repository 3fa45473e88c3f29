"""The time mix of RWKV-5, in all its minor versions; the channel mix is that of RWKV-4."""

import numpy as np

from rwkv_cy.dtypes import widen
from rwkv_cy.kernels.matrix import make_matrix
from rwkv_cy.kernels.stack import real_dtype

from rwkv_cy.kernels.dispatch cimport RK_SHIFTED, heads_scratch, rk_product, run_heads
from rwkv_cy.kernels.stack cimport Arena, Pass, keep_last, product_scratch, shifted, take
from rwkv_cy.kernels.time_mix cimport BaseTimeMix, heads_of


def _by_channel(values, head_size, dtype):
    """Return one number for each channel, of numbers for each channel or for each head."""
    return np.ascontiguousarray(
        np.broadcast_to(values.reshape(len(values), -1), (len(values), head_size)).reshape(-1).astype(dtype)
    )


cdef class TimeMix(BaseTimeMix):
    """Time mix: token shift, WKV, GroupNorm, gate if there is one, output matrix.

    Parameters
    ----------
    config, offsets, parameters, output_scale, activations
        As for :class:`rwkv_cy.kernels.time_mix.BaseTimeMix`. Decay and bonus have the shape (heads,) or
        (heads, head size); the gate may be missing.
    """

    def __init__(self, config, offsets, parameters, output_scale, activations):
        super().__init__(config, offsets, parameters, output_scale, activations)
        real = config.compute_dtype
        self.call.heads = heads_of(self, config, offsets, parameters)
        self.mix_k = self.vector(parameters, "att.time_mix_k", real)
        self.mix_v = self.vector(parameters, "att.time_mix_v", real)
        self.mix_r = self.vector(parameters, "att.time_mix_r", real)
        if "att.gate.weight" in parameters:
            self.gate = make_matrix(parameters["att.gate.weight"], real, 1.0, activations)
            self.mix_g = self.vector(parameters, "att.time_mix_g", real)
        decay, bonus = (
            widen(parameter.array, parameter.dtype, "f64")
            for parameter in (parameters["att.time_decay"], parameters["att.time_faaaa"])
        )
        # Computed in float64, so that a float32 model gets the float32 nearest to exp(-exp(time_decay)).
        with np.errstate(over="ignore", under="ignore"):
            rate = np.exp(decay)
            decay = np.exp(-rate)
        slope = -np.minimum(rate, 1e3) * decay         # 0 where the rate is larger, as the decay is
        self.by_head = decay.size == self.call.heads.count
        self.call.decay = self.keep(_by_channel(decay, config.head_size, real_dtype(config)))
        self.decay_slope = self.keep(_by_channel(slope, config.head_size, real_dtype(config)))
        self.call.u = self.keep(_by_channel(bonus, config.head_size, real_dtype(config)))

    cdef TimeMixBuffers carve(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef TimeMixBuffers b
        cdef size_t att = p.tokens.count * self.d_att * self.itemsize
        cdef size_t products = (product_scratch(p, self.receptance) + product_scratch(p, self.key)
                                + product_scratch(p, self.value))
        b.r, b.k, b.v = take(arena, att), take(arena, att), take(arena, att)
        b.g = NULL
        if self.mix_g != NULL:
            b.g = take(arena, att)
            products += product_scratch(p, self.gate)
        b.wkv = take(arena, heads_scratch(p.ops, RK_WKV6, self.call.heads.size, p.num_threads))
        b.rest = take(arena, products)
        return b

    cdef size_t wkv_scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve(&arena, p)
        return arena.used

    cdef void wkv(self, const Pass *p, const char *x, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(scratch, 0)
        cdef TimeMixBuffers b = self.carve(&arena, p)
        cdef rk_product[4] products
        cdef int count = 2
        # k = K (x mix_k + xx (1 - mix_k)), and the others likewise
        products[0] = shifted(self.key.times(x, b.k), RK_SHIFTED, self.mix_k, self.xx)
        products[1] = shifted(self.value.times(x, b.v), RK_SHIFTED, self.mix_v, self.xx)
        if y != NULL:
            products[2] = shifted(self.receptance.times(x, b.r), RK_SHIFTED, self.mix_r, self.xx)
            count = 3
            if b.g != NULL:
                products[3] = shifted(self.gate.times(x, b.g), RK_SHIFTED, self.mix_g, self.xx)
                count = 4
        self.multiply(p, products, count, b.rest)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        cdef rk_wkv6 call = self.call
        call.r, call.k, call.v, call.g, call.heads.y = b.r, b.k, b.v, b.g, y
        run_heads(p.ops, RK_WKV6, &call.heads, &p.tokens, b.wkv, p.num_threads)
