"""The backward pass of the time mix of RWKV-5; that of the channel mix is RWKV-4's."""

from rwkv_cy.kernels.gradient cimport Backward, Weight
from rwkv_cy.kernels.rwkv5 cimport TimeMix, rk_wkv6
from rwkv_cy.kernels.stack cimport Arena, Pass
from rwkv_cy.kernels.time_mix_gradient cimport BaseTimeMixGradient

cdef extern from "wkv/wkv6_gradient.h" nogil:
    ctypedef struct rk_wkv6_gradient:
        rk_wkv6 forward
        const void *dy
        void *dr
        void *dk
        void *dv
        void *dw
        void *dg


cdef enum:
    SHIFTS = 4           # most token shifts: of k, v, r and g
    SUMS = 4             # RK_WKV6_SUMS: of the decay, the bonus, and the GroupNorm


# What the recorded pass saves, each (tokens, d_att).
cdef struct SavedTimeMix:
    char *r
    char *k
    char *v
    char *g              # NULL without a gate
    char *gated          # what the output matrix is multiplied with


# Scratch of the recorded pass and of the backward pass, each (tokens, d_att) unless said otherwise.
cdef struct TimeMixScratch:
    char *y
    char *dy
    char *dr
    char *dk
    char *dv
    char *dg
    char *shifted        # (tokens, d_model), as is d_shifted
    char *d_shifted[SHIFTS]
    char *sums           # of each sequence
    char *rest


cdef class TimeMixGradient(BaseTimeMixGradient):
    cdef TimeMix mix
    cdef Weight gate
    cdef int mix_k, mix_v, mix_r, mix_g
    cdef int[SUMS] sums

    cdef SavedTimeMix carve(self, Arena *arena, const Pass *p) noexcept nogil
    cdef TimeMixScratch carve_scratch(self, Arena *arena, const Pass *p) noexcept nogil
    cdef void add_all_sums(self, const Backward *b, char *sums) noexcept nogil
