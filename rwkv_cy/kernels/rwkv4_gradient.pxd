"""The backward pass of the two mixes of RWKV-4."""

from rwkv_cy.kernels.gradient cimport MixGradient, Weight
from rwkv_cy.kernels.rwkv4 cimport ChannelMix, TimeMix, rk_wkv4
from rwkv_cy.kernels.stack cimport Arena, Pass
from rwkv_cy.kernels.time_mix_gradient cimport BaseTimeMixGradient

cdef extern from "wkv/wkv4_gradient.h" nogil:
    ctypedef struct rk_wkv4_gradient:
        rk_wkv4 forward
        const void *dy
        void *dr
        void *dk
        void *dv
        void *dw
        void *du


cdef enum:
    SHIFTS = 3           # token shifts: of k, v and r


# What the recorded pass saves, each (tokens, d_att).
cdef struct SavedTimeMix:
    char *k
    char *v
    char *r
    char *gated          # sigmoid(r) wkv


# Scratch of the recorded pass and of the backward pass, each (tokens, d_att) unless said otherwise.
cdef struct TimeMixScratch:
    char *dy
    char *dr
    char *dk
    char *dv
    char *shifted        # (tokens, d_model), as is d_shifted
    char *d_shifted[SHIFTS]
    char *dw             # (d_att,)
    char *rest


cdef class TimeMixGradient(BaseTimeMixGradient):
    cdef TimeMix mix
    cdef int decay, bonus, mix_k, mix_v, mix_r

    cdef SavedTimeMix carve(self, Arena *arena, const Pass *p) noexcept nogil
    cdef TimeMixScratch carve_scratch(self, Arena *arena, const Pass *p) noexcept nogil


# What the recorded pass saves.
cdef struct SavedChannelMix:
    char *mixed          # (tokens, d_model), as is r
    char *r
    char *k              # (tokens, d_ffn)


# Scratch of the backward pass, each (tokens, d_model) unless said otherwise.
cdef struct ChannelMixScratch:
    char *d_mixed
    char *dr
    char *shifted
    char *d_shifted_k
    char *d_shifted_r
    char *hidden         # (tokens, d_ffn), as is dk
    char *dk
    char *rest


cdef class ChannelMixGradient(MixGradient):
    cdef ChannelMix mix
    cdef Weight key, value, receptance
    cdef int mix_k, mix_r

    cdef SavedChannelMix carve(self, Arena *arena, const Pass *p) noexcept nogil
    cdef ChannelMixScratch carve_scratch(self, Arena *arena, const Pass *p) noexcept nogil
