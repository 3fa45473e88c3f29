"""The mixes of RWKV-7."""

from rwkv_cy.kernels.matrix import make_factors, make_matrix

from rwkv_cy.kernels.dispatch cimport (
    RK_ADD, RK_LERPED, RK_RELU_SQUARED, RK_SIGMOID, RK_TANH, heads_scratch, matmul, rk_product, run_heads,
)
from rwkv_cy.kernels.stack cimport Arena, Mix, Pass, keep_last, last_product, product_scratch, shifted, take
from rwkv_cy.kernels.time_mix cimport BaseTimeMix, heads_of


cdef class TimeMix(BaseTimeMix):
    """Time mix: token shift, low-rank decay, learning rate, value residual and gate, WKV, GroupNorm, output matrix.

    Parameters
    ----------
    config, offsets, parameters, output_scale, activations
        As for :class:`rwkv_cy.kernels.time_mix.BaseTimeMix`.
    layer : int
        Index of the layer. Layer 0 produces v_first, the values that all later layers mix into theirs.
    """

    def __init__(self, config, offsets, parameters, output_scale, activations, layer):
        super().__init__(config, offsets, parameters, output_scale, activations)
        real = config.compute_dtype
        self.first = layer == 0
        self.shared_row = self.d_att * self.itemsize
        self.call.heads = heads_of(self, config, offsets, parameters)
        self.w1, self.w2 = make_factors(parameters, "att.w", real, activations)
        self.a1, self.a2 = make_factors(parameters, "att.a", real, activations)
        self.g1, self.g2 = make_factors(parameters, "att.g", real, activations)
        if not self.first:
            self.v1, self.v2 = make_factors(parameters, "att.v", real, activations)
            self.call.v0 = self.vector(parameters, "att.v0", real)
        self.x_r = self.vector(parameters, "att.x_r", real)
        self.x_w = self.vector(parameters, "att.x_w", real)
        self.x_k = self.vector(parameters, "att.x_k", real)
        self.x_v = self.vector(parameters, "att.x_v", real)
        self.x_a = self.vector(parameters, "att.x_a", real)
        self.x_g = self.vector(parameters, "att.x_g", real)
        self.call.w0 = self.vector(parameters, "att.w0", real)
        self.call.a0 = self.vector(parameters, "att.a0", real)
        self.call.k_k = self.vector(parameters, "att.k_k", real)
        self.call.k_a = self.vector(parameters, "att.k_a", real)
        self.call.r_k = self.vector(parameters, "att.r_k", real)

    cdef TimeMixBuffers carve(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef TimeMixBuffers b
        cdef Py_ssize_t tokens = p.tokens.count
        cdef size_t att = tokens * self.d_att * self.itemsize
        cdef size_t number = tokens * self.itemsize
        b.r, b.k, b.v, b.w = take(arena, att), take(arena, att), take(arena, att), take(arena, att)
        b.a, b.g = take(arena, att), take(arena, att)
        b.hidden_w = take(arena, number * self.w1.m.rows)
        b.hidden_a = take(arena, number * self.a1.m.rows)
        b.hidden_g = take(arena, number * self.g1.m.rows)
        b.v_mix = b.hidden_v = NULL
        if not self.first:
            b.v_mix = take(arena, att)
            b.hidden_v = take(arena, number * self.v1.m.rows)
        b.bonus = take(arena, number * self.call.heads.count)
        b.wkv = take(arena, heads_scratch(p.ops, RK_WKV7, self.call.heads.size, p.num_threads))
        b.rest = take(arena, self.rest_bytes(p) if arena.start == NULL else 0)
        return b

    cdef size_t rest_bytes(self, const Pass *p) noexcept nogil:
        """Return the bytes of scratch of the products of `wkv`."""
        cdef size_t first = (product_scratch(p, self.receptance) + product_scratch(p, self.key)
                             + product_scratch(p, self.value) + product_scratch(p, self.w1)
                             + product_scratch(p, self.a1) + product_scratch(p, self.g1))
        cdef size_t second = product_scratch(p, self.w2) + product_scratch(p, self.a2) + product_scratch(p, self.g2)
        if not self.first:
            first += product_scratch(p, self.v1)
            second += product_scratch(p, self.v2)
        return max(first, second)

    cdef size_t wkv_scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve(&arena, p)
        return arena.used

    cdef void wkv(self, const Pass *p, const char *x, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(scratch, 0)
        cdef TimeMixBuffers b = self.carve(&arena, p)
        cdef bint outputs = y != NULL
        cdef rk_product[7] products
        cdef int count = 0
        # k = K lerp(x, xx, x_k), and the others likewise
        products[0] = shifted(self.key.times(x, b.k), RK_LERPED, self.x_k, self.xx)
        products[1] = shifted(self.value.times(x, b.v), RK_LERPED, self.x_v, self.xx)
        products[2] = shifted(self.w1.times(x, b.hidden_w), RK_LERPED, self.x_w, self.xx)
        products[3] = shifted(self.a1.times(x, b.hidden_a), RK_LERPED, self.x_a, self.xx)
        count = 4
        if not self.first:
            products[count] = shifted(self.v1.times(x, b.hidden_v), RK_LERPED, self.x_v, self.xx)
            count += 1
        if outputs:
            products[count] = shifted(self.receptance.times(x, b.r), RK_LERPED, self.x_r, self.xx)
            products[count + 1] = shifted(self.g1.times(x, b.hidden_g), RK_LERPED, self.x_g, self.xx)
            count += 2
        self.multiply(p, products, count, b.rest)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        # w = tanh(hidden_w) w2;  a = hidden_a a2;  v_mix = hidden_v v2;  g = sigmoid(hidden_g) g2
        products[0] = self.w2.times(b.hidden_w, b.w)
        products[0].first = RK_TANH
        products[1] = self.a2.times(b.hidden_a, b.a)
        count = 2
        if not self.first:
            products[count] = self.v2.times(b.hidden_v, b.v_mix)
            count += 1
        if outputs:
            products[count] = self.g2.times(b.hidden_g, b.g)
            products[count].first = RK_SIGMOID
            count += 1
        matmul(p.ops, products, count, &p.tokens, b.rest, p.num_threads)
        cdef rk_wkv7 call = self.call
        call.k, call.v, call.w, call.a, call.v_mix = b.k, b.v, b.w, b.a, b.v_mix
        call.v_used, call.v_first = b.v, p.shared
        if outputs:
            call.r, call.g, call.bonus, call.heads.y = b.r, b.g, b.bonus, y
        run_heads(p.ops, RK_WKV7, &call.heads, &p.tokens, b.wkv, p.num_threads)


cdef class ChannelMix(Mix):
    """Channel mix: token shift and squared ReLU.

    Parameters
    ----------
    config, offsets, parameters, output_scale, activations
        As for :class:`TimeMix`.
    """

    def __init__(self, config, offsets, parameters, output_scale, activations="f32"):
        super().__init__(config, offsets["end"])
        self.key = make_matrix(parameters["ffn.key.weight"], config.compute_dtype, 1.0, activations)
        self.value = make_matrix(parameters["ffn.value.weight"], config.compute_dtype, output_scale, activations)
        self.x_k = self.vector(parameters, "ffn.x_k", config.compute_dtype)
        self.d_ffn = config.d_ffn
        self.xx = offsets["ffn_xx"] * self.itemsize

    cdef ChannelMixBuffers carve(self, Arena *arena, const Pass *p) noexcept nogil:
        cdef ChannelMixBuffers b
        b.k = take(arena, p.tokens.count * self.d_ffn * self.itemsize)
        b.mixed = take(arena, p.tokens.count * self.d_model * self.itemsize)
        b.rest = take(arena, max(product_scratch(p, self.key), product_scratch(p, self.value)))
        return b

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef Arena arena = Arena(NULL, 0)
        self.carve(&arena, p)
        return arena.used

    cdef void run(self, const Pass *p, const char *x, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(scratch, 0)
        cdef ChannelMixBuffers b = self.carve(&arena, p)
        # y += V max(K lerp(x, xx, x_k), 0)^2
        cdef rk_product product = shifted(self.key.times(x, b.k), RK_LERPED, self.x_k, self.xx)
        matmul(p.ops, &product, 1, &p.tokens, b.rest, p.num_threads)
        keep_last(p, x, self.d_model * self.itemsize, self.xx)
        product = self.value.times(b.k, b.mixed)
        product.first = RK_RELU_SQUARED
        product.then, product.into = RK_ADD, y
        last_product(p, &product, b.rest)
