"""The two mixes of RWKV-7."""

from rwkv_cy.kernels.dispatch cimport rk_heads
from rwkv_cy.kernels.matrix cimport Matrix
from rwkv_cy.kernels.stack cimport Arena, Mix, Pass
from rwkv_cy.kernels.time_mix cimport BaseTimeMix


cdef extern from "wkv/versions.h" nogil:
    enum:
        RK_WKV7

cdef extern from "wkv/wkv7.h" nogil:
    ctypedef struct rk_wkv7:
        rk_heads heads
        const void *w0
        const void *a0
        const void *v0
        const void *k_k
        const void *k_a
        const void *r_k
        const void *r
        const void *w
        const void *k
        const void *a
        const void *g
        const void *v_mix
        const void *v
        void *v_used
        void *v_first
        void *bonus


cdef struct TimeMixBuffers:
    char *r          # (tokens, d_att), as are k, v and the results of the low-rank products
    char *k
    char *v
    char *w
    char *a
    char *g
    char *v_mix
    char *hidden_w   # (tokens, rank) of each
    char *hidden_a
    char *hidden_g
    char *hidden_v
    char *bonus      # (tokens, heads)
    char *wkv        # scratch of each thread
    char *rest       # scratch of the products


cdef class TimeMix(BaseTimeMix):
    cdef readonly Matrix w1, w2, a1, a2, g1, g2, v1, v2   # v1 and v2 are None in the first layer
    cdef readonly bint first                               # whether this layer produces v_first
    cdef rk_wkv7 call                                      # parameters and sizes; `wkv` sets the activations
    cdef const char *x_r
    cdef const char *x_w
    cdef const char *x_k
    cdef const char *x_v
    cdef const char *x_a
    cdef const char *x_g

    cdef TimeMixBuffers carve(self, Arena *arena, const Pass *p) noexcept nogil
    cdef size_t rest_bytes(self, const Pass *p) noexcept nogil


cdef struct ChannelMixBuffers:
    char *k          # (tokens, d_ffn)
    char *mixed      # (tokens, d_model)
    char *rest


cdef class ChannelMix(Mix):
    cdef readonly Matrix key, value
    cdef readonly Py_ssize_t d_ffn
    cdef size_t xx
    cdef const char *x_k

    cdef ChannelMixBuffers carve(self, Arena *arena, const Pass *p) noexcept nogil
