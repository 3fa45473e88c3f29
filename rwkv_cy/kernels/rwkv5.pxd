"""The time mix of RWKV-5, in all its minor versions."""

from rwkv_cy.kernels.dispatch cimport rk_heads
from rwkv_cy.kernels.matrix cimport Matrix
from rwkv_cy.kernels.stack cimport Arena, Pass
from rwkv_cy.kernels.time_mix cimport BaseTimeMix


cdef extern from "wkv/versions.h" nogil:
    enum:
        RK_WKV6

cdef extern from "wkv/wkv6.h" nogil:
    ctypedef struct rk_wkv6:
        rk_heads heads
        const void *decay
        const void *u
        const void *r
        const void *k
        const void *v
        const void *w
        const void *g


cdef struct TimeMixBuffers:
    char *r          # (tokens, d_att), as are k, v and g
    char *k
    char *v
    char *g          # NULL without a gate
    char *wkv        # scratch of each thread
    char *rest       # scratch of the products


cdef class TimeMix(BaseTimeMix):
    cdef readonly Matrix gate                              # None in a version without one
    cdef rk_wkv6 call                                      # parameters and sizes; `wkv` sets the activations
    cdef bint by_head                                      # whether a head has one decay and one bonus
    cdef const char *decay_slope                           # derivative of the decay with respect to time_decay
    cdef const char *mix_k
    cdef const char *mix_v
    cdef const char *mix_r
    cdef const char *mix_g

    cdef TimeMixBuffers carve(self, Arena *arena, const Pass *p) noexcept nogil
