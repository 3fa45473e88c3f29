"""The mixes of RWKV-4."""

import numpy as np

from rwkv_cy.dtypes import widen
from rwkv_cy.kernels.matrix import make_matrix
from rwkv_cy.kernels.stack import real_dtype

from rwkv_cy.kernels.dispatch cimport (
    RK_ADD, RK_ADD_GATED, RK_RELU_SQUARED, RK_SHIFTED, matmul, rk_product, run_channels,
)
from rwkv_cy.kernels.stack cimport Arena, Mix, Pass, keep_last, product_scratch, shifted, take


cdef class TimeMix(Mix):
    """Time mix: token shift, WKV, receptance gate, output matrix.

    Parameters
    ----------
    config : Config
        Dimensions and type.
    offsets : mapping of str to int
        Offset of each field in a layer's row of the state, in elements; ``"end"`` is the row's length.
    parameters : mapping of str to Parameter
        The layer's parameters by short name.
    output_scale : float
        Factor of the result, a power of two.
    activations : {"f32", "bf16"}, default "f32"
        Precision of the activations that bf16 matrices are multiplied with; see :class:`rwkv_cy.kernels.matrix.Matrix`.
    """

    def __init__(self, config, offsets, parameters, output_scale, activations="f32"):
        super().__init__(config, offsets["end"])
        real = config.compute_dtype
        self.key = make_matrix(parameters["att.key.weight"], real, 1.0, activations)
        self.value = make_matrix(parameters["att.value.weight"], real, 1.0, activations)
        self.receptance = make_matrix(parameters["att.receptance.weight"], real, 1.0, activations)
        self.output = make_matrix(parameters["att.output.weight"], real, output_scale, activations)
        decay = parameters["att.time_decay"]
        # Computed in float64, so that a float32 model gets the float32 nearest to -exp(time_decay), -inf on overflow.
        with np.errstate(over="ignore"):
            decay = (-np.exp(widen(decay.array, decay.dtype, "f64"))).astype(real_dtype(config)).reshape(-1)
        self.call.w = self.keep(decay)
        self.call.u = self.vector(parameters, "att.time_first", real)
        self.mix_k = self.vector(parameters, "att.time_mix_k", real)
        self.mix_v = self.vector(parameters, "att.time_mix_v", real)
        self.mix_r = self.vector(parameters, "att.time_mix_r", real)
        self.d_att = self.call.channels.width = config.d_att
        self.xx = offsets["att_xx"] * self.itemsize
        self.call.aa = offsets["att_aa"] * self.itemsize
        self.call.bb = offsets["att_bb"] * self.itemsize
        self.call.pp = offsets["att_pp"] * self.itemsize

    cdef TimeMixBuffers carve(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef TimeMixBuffers b
        cdef size_t att = p.tokens.count * self.d_att * self.itemsize
        b.k, b.v, b.r, b.rwkv = take(arena, att), take(arena, att), take(arena, att), take(arena, att)
        b.mixed = take(arena, p.tokens.count * self.d_model * self.itemsize)
        b.rest = take(arena, max(
            product_scratch(p, self.key) + product_scratch(p, self.value) + product_scratch(p, self.receptance),
            product_scratch(p, self.output)))
        return b

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve(&arena, p)
        return arena.used

    cdef void wkv(self, const Pass *p, const char *x, const TimeMixBuffers *b, bint outputs) noexcept nogil:
        """Map normalized activations to the gated output of WKV; without `outputs`, only update the states."""
        cdef rk_product[3] products
        # k = K (x mix_k + xx (1 - mix_k)), and likewise v and r
        products[0] = shifted(self.key.times(x, b.k), RK_SHIFTED, self.mix_k, self.xx)
        products[1] = shifted(self.value.times(x, b.v), RK_SHIFTED, self.mix_v, self.xx)
        products[2] = shifted(self.receptance.times(x, b.r), RK_SHIFTED, self.mix_r, self.xx)
        matmul(p.ops, products, 3 if outputs else 2, &p.tokens, b.rest, p.num_threads)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        cdef rk_wkv4 call = self.call
        call.k, call.v = b.k, b.v
        if outputs:
            call.r, call.y = b.r, b.rwkv
        run_channels(p.ops, RK_WKV4, &call.channels, &p.tokens, p.num_threads)

    cdef void run(self, const Pass *p, const char *x, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(scratch, 0)
        cdef TimeMixBuffers b = self.carve(&arena, p)
        self.wkv(p, x, &b, True)
        # y += O (sigmoid(r) wkv(k, v))
        cdef rk_product product = self.output.times(b.rwkv, b.mixed)
        product.then, product.into = RK_ADD, y
        matmul(p.ops, &product, 1, &p.tokens, b.rest, p.num_threads)

    cdef void update_state(self, const Pass *p, const char *x, char *scratch) noexcept nogil:
        cdef Arena arena = Arena(scratch, 0)
        cdef TimeMixBuffers b = self.carve(&arena, p)
        self.wkv(p, x, &b, False)


cdef class ChannelMix(Mix):
    """Channel mix: token shift, squared ReLU, receptance gate.

    Parameters
    ----------
    config, offsets, parameters, output_scale, activations
        As for :class:`TimeMix`.
    """

    def __init__(self, config, offsets, parameters, output_scale, activations="f32"):
        super().__init__(config, offsets["end"])
        real = config.compute_dtype
        self.key = make_matrix(parameters["ffn.key.weight"], real, 1.0, activations)
        self.value = make_matrix(parameters["ffn.value.weight"], real, output_scale, activations)
        self.receptance = make_matrix(parameters["ffn.receptance.weight"], real, 1.0, activations)
        self.mix_k = self.vector(parameters, "ffn.time_mix_k", real)
        self.mix_r = self.vector(parameters, "ffn.time_mix_r", real)
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
        # r = R (x mix_r + xx (1 - mix_r)), and likewise k
        products[0] = shifted(self.receptance.times(x, b.r), RK_SHIFTED, self.mix_r, self.xx)
        products[1] = shifted(self.key.times(x, b.k), RK_SHIFTED, self.mix_k, self.xx)
        matmul(p.ops, products, 2, &p.tokens, b.rest, p.num_threads)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        # y += sigmoid(r) (V max(k, 0)^2)
        products[0] = self.value.times(b.k, b.mixed)
        products[0].first = RK_RELU_SQUARED
        products[0].then, products[0].gate, products[0].into = RK_ADD_GATED, b.r, y
        matmul(p.ops, products, 1, &p.tokens, b.rest, p.num_threads)
