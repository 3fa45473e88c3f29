"""The time mix of any version: its matrices, and the way from its WKV to the residual stream."""

from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.matrix import make_matrix

from rwkv_cy.kernels.dispatch cimport RK_ADD, matmul, matmul_ahead, rk_heads, rk_product
from rwkv_cy.kernels.matrix cimport padded
from rwkv_cy.kernels.stack cimport Arena, Mix, Pass, product_scratch, take


cdef class BaseTimeMix(Mix):
    """y += O wkv(x), where `wkv` is what a version defines.

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
    activations : {"f32", "bf16"}
        Precision of the activations that bf16 matrices are multiplied with; see :class:`rwkv_cy.kernels.matrix.Matrix`.
    """

    def __init__(self, config, offsets, parameters, output_scale, activations):
        super().__init__(config, offsets["end"])
        real = config.compute_dtype
        self.receptance = make_matrix(parameters["att.receptance.weight"], real, 1.0, activations)
        self.key = make_matrix(parameters["att.key.weight"], real, 1.0, activations)
        self.value = make_matrix(parameters["att.value.weight"], real, 1.0, activations)
        self.output = make_matrix(parameters["att.output.weight"], real, output_scale, activations)
        self.d_att = config.d_att
        self.xx = offsets["att_xx"] * self.itemsize

    cdef void wkv(self, const Pass *p, const char *x, char *scratch, char *y) noexcept nogil:
        pass

    cdef size_t wkv_scratch(self, const Pass *p) noexcept nogil:
        return 0

    cdef size_t scratch(self, const Pass *p) noexcept nogil:
        cdef size_t number = p.tokens.count * self.itemsize
        return (padded(number * self.d_att) + padded(number * self.d_model)
                + max(self.wkv_scratch(p), product_scratch(p, self.output)))

    cdef void run(self, const Pass *p, const char *x, char *scratch, char *y) noexcept nogil:
        cdef Arena arena = Arena(scratch, 0)
        cdef size_t number = p.tokens.count * self.itemsize
        cdef char *gated = take(&arena, number * self.d_att)
        cdef char *mixed = take(&arena, number * self.d_model)
        cdef char *rest = take(&arena, 0)
        self.wkv(p, x, rest, gated)
        # y += O gated
        cdef rk_product product = self.output.times(gated, mixed)
        product.then, product.into = RK_ADD, y
        matmul(p.ops, &product, 1, &p.tokens, rest, p.num_threads)

    cdef void multiply(self, const Pass *p, const rk_product *products, int count, char *scratch) noexcept nogil:
        matmul_ahead(p.ops, products, count, &p.tokens, self.kv + p.prefetched, self.kv_bytes - p.prefetched, scratch,
                     p.num_threads)

    cdef void update_state(self, const Pass *p, const char *x, char *scratch) noexcept nogil:
        self.wkv(p, x, scratch, NULL)


cdef rk_heads heads_of(BaseTimeMix mix, config, offsets, parameters) except *:
    """Return the heads of a time mix with a matrix-valued state, without the address of their result."""
    cdef rk_heads heads
    if config.head_size < 1 or config.d_att % config.head_size:
        raise KernelError(f"TimeMix: expected whole heads in d_att {config.d_att}, got heads of {config.head_size}")
    heads.count, heads.size = config.d_att // config.head_size, config.head_size
    heads.kv = mix.kv = offsets["att_kv"] * mix.itemsize
    mix.kv_bytes = heads.count * heads.size * heads.size * mix.itemsize
    heads.norm_weight = mix.vector(parameters, "att.ln_x.weight", config.compute_dtype)
    heads.norm_bias = mix.vector(parameters, "att.ln_x.bias", config.compute_dtype)
    heads.eps = config.group_norm_eps
    heads.y = NULL
    return heads
