"""The two mixes of RWKV-4."""

from rwkv_cy.kernels.dispatch cimport rk_channels
from rwkv_cy.kernels.matrix cimport Matrix
from rwkv_cy.kernels.stack cimport Arena, Mix, Pass
from rwkv_cy.kernels.time_mix cimport BaseTimeMix


cdef extern from "wkv/versions.h" nogil:
    enum:
        RK_WKV4

cdef extern from "wkv/wkv4.h" nogil:
    ctypedef struct rk_wkv4:
        rk_channels channels
        const void *w
        const void *u
        const void *k
        const void *v
        const void *r
        void *y
        size_t aa
        size_t bb
        size_t pp


cdef struct TimeMixBuffers:
    char *r          # (tokens, d_att), as are k and v
    char *k
    char *v
    char *rest       # scratch of the products


cdef class TimeMix(BaseTimeMix):
    cdef rk_wkv4 call                      # parameters and sizes; `wkv` sets the activations
    cdef const char *mix_k
    cdef const char *mix_v
    cdef const char *mix_r

    cdef TimeMixBuffers carve(self, Arena *arena, const Pass *p) noexcept nogil


cdef struct ChannelMixBuffers:
    char *mixed      # (tokens, d_model), as is r
    char *r
    char *k          # (tokens, d_ffn)
    char *rest


cdef class ChannelMix(Mix):
    cdef readonly Matrix key, value, receptance
    cdef readonly Py_ssize_t d_ffn
    cdef size_t xx
    cdef int shift                         # RK_SHIFTED or RK_LERPED
    cdef const char *mix_k
    cdef const char *mix_r

    cdef ChannelMixBuffers carve(self, Arena *arena, const Pass *p) noexcept nogil
