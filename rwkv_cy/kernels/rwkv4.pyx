"""The mixes of RWKV-4."""

import numpy as np

from rwkv_cy.dtypes import widen
from rwkv_cy.kernels.matrix import make_matrix
from rwkv_cy.kernels.stack import real_dtype

from rwkv_cy.kernels.dispatch cimport (
    RK_ADD_GATED, RK_LERPED, RK_RELU_SQUARED, RK_SHIFTED, matmul, rk_product, run_channels,
)
from rwkv_cy.kernels.stack cimport Arena, Mix, Pass, keep_last, last_product, product_scratch, shifted, take
from rwkv_cy.kernels.time_mix cimport BaseTimeMix


cdef class TimeMix(BaseTimeMix):
    """Time mix: token shift, WKV, receptance gate, output matrix; parameters as for :class:`BaseTimeMix`."""

    def __init__(self, config, offsets, parameters, output_scale, activations="f32"):
        super().__init__(config, offsets, parameters, output_scale, activations)
        real = config.compute_dtype
        decay = parameters["att.time_decay"]
        # Computed in float64, so that a float32 model gets the float32 nearest to -exp(time_decay), -inf on overflow.
        with np.errstate(over="ignore"):
            decay = (-np.exp(widen(decay.array, decay.dtype, "f64"))).astype(real_dtype(config)).reshape(-1)
        self.call.w = self.keep(decay)
        self.call.u = self.vector(parameters, "att.time_first", real)
        self.mix_k = self.vector(parameters, "att.time_mix_k", real)
        self.mix_v = self.vector(parameters, "att.time_mix_v", real)
        self.mix_r = self.vector(parameters, "att.time_mix_r", real)
        self.call.channels.width = self.d_att
        self.call.aa = offsets["att_aa"] * self.itemsize
        self.call.bb = offsets["att_bb"] * self.itemsize
        self.call.pp = offsets["att_pp"] * self.itemsize

    cdef TimeMixBuffers carve(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef TimeMixBuffers b
        cdef size_t att = p.tokens.count * self.d_att * self.itemsize
        b.k, b.v, b.r = take(arena, att), take(arena, att), take(arena, att)
        b.rest = take(arena, product_scratch(p, self.key) + product_scratch(p, self.value)
                      + product_scratch(p, self.receptance))
        return b

    cdef size_t wkv_scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve(&arena, p)
        return arena.used

    cdef void wkv(self, const Pass *p, const char *x, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(scratch, 0)
        cdef TimeMixBuffers b = self.carve(&arena, p)
        cdef rk_product[3] products
        # k = K (x mix_k + xx (1 - mix_k)), and likewise v and r
        products[0] = shifted(self.key.times(x, b.k), RK_SHIFTED, self.mix_k, self.xx)
        products[1] = shifted(self.value.times(x, b.v), RK_SHIFTED, self.mix_v, self.xx)
        products[2] = shifted(self.receptance.times(x, b.r), RK_SHIFTED, self.mix_r, self.xx)
        matmul(p.ops, products, 2 if y == NULL else 3, &p.tokens, b.rest, p.num_threads)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        cdef rk_wkv4 call = self.call
        call.k, call.v, call.y = b.k, b.v, y
        if y != NULL:
            call.r = b.r
        run_channels(p.ops, RK_WKV4, &call.channels, &p.tokens, p.num_threads)


cdef class ChannelMix(Mix):
    """Channel mix: token shift, squared ReLU, receptance gate.

    Parameters
    ----------
    config, offsets, parameters, output_scale, activations
        As for :class:`TimeMix`.
    mixes : str, default "ffn.time_mix_"
        Beginning of the names of the token shift's parameters.
    lerped : bool, default False
        The token shift is x + (xx - x) mix instead of x mix + xx (1 - mix).
    """

    def __init__(self, config, offsets, parameters, output_scale, activations="f32", mixes="ffn.time_mix_",
                 lerped=False):
        super().__init__(config, offsets["end"])
        real = config.compute_dtype
        self.key = make_matrix(parameters["ffn.key.weight"], real, 1.0, activations)
        self.value = make_matrix(parameters["ffn.value.weight"], real, output_scale, activations)
        self.receptance = make_matrix(parameters["ffn.receptance.weight"], real, 1.0, activations)
        self.shift = RK_LERPED if lerped else RK_SHIFTED
        self.mix_k = self.vector(parameters, f"{mixes}k", real)
        self.mix_r = self.vector(parameters, f"{mixes}r", real)
        self.d_ffn = config.d_ffn
        self.xx = offsets["ffn_xx"] * self.itemsize

    cdef ChannelMixBuffers carve(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef ChannelMixBuffers b
        cdef size_t model = p.tokens.count * self.d_model * self.itemsize
        b.mixed, b.r = take(arena, model), take(arena, model)
        b.k = take(arena, p.tokens.count * self.d_ffn * self.itemsize)
        b.rest = take(arena, max(product_scratch(p, self.key) + product_scratch(p, self.receptance),
                                 product_scratch(p, self.value)))
        return b

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve(&arena, p)
        return arena.used

    cdef void run(self, const Pass *p, const char *x, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(scratch, 0)
        cdef ChannelMixBuffers b = self.carve(&arena, p)
        cdef rk_product[2] products
        # r = R shift(x, mix_r), and likewise k
        products[0] = shifted(self.receptance.times(x, b.r), self.shift, self.mix_r, self.xx)
        products[1] = shifted(self.key.times(x, b.k), self.shift, self.mix_k, self.xx)
        matmul(p.ops, products, 2, &p.tokens, b.rest, p.num_threads)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        # y += sigmoid(r) (V max(k, 0)^2)
        products[0] = self.value.times(b.k, b.mixed)
        products[0].first = RK_RELU_SQUARED
        products[0].then, products[0].gate, products[0].into = RK_ADD_GATED, b.r, y
        last_product(p, products, b.rest)
