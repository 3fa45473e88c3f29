"""The backward pass of the two mixes of RWKV-4."""

from rwkv_cy.kernels.dispatch cimport rk_channels
from rwkv_cy.kernels.gradient cimport MixGradient, Weight
from rwkv_cy.kernels.rwkv4 cimport ChannelMix, TimeMix, rk_wkv4
from rwkv_cy.kernels.stack cimport Arena, Pass

cdef extern from "wkv/wkv4_gradient.h" nogil:
    ctypedef struct rk_wkv4_gradient:
        rk_wkv4 forward
        const void *dy
        void *dr
        void *dk
        void *dv
        void *dw
        void *du


# What the recorded pass saves, each (tokens, d_att).
cdef struct SavedTimeMix:
    char *k
    char *v
    char *r
    char *gated      # sigmoid(r) wkv


cdef class TimeMixGradient(MixGradient):
    cdef TimeMix mix
    cdef Weight receptance, key, value, output
    cdef int decay, bonus, mix_k, mix_v, mix_r

    cdef SavedTimeMix carve(self, Arena *arena, const Pass *p) noexcept nogil


# What the recorded pass saves.
cdef struct SavedChannelMix:
    char *mixed      # (tokens, d_model), as is r
    char *r
    char *k          # (tokens, d_ffn)


cdef class ChannelMixGradient(MixGradient):
    cdef ChannelMix mix
    cdef Weight key, value, receptance
    cdef int mix_k, mix_r

    cdef SavedChannelMix carve(self, Arena *arena, const Pass *p) noexcept nogil
