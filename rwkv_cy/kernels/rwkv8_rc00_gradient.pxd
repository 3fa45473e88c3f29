"""The backward pass of the channel mix of RWKV-8 rc00; that of the time mix is RWKV-7's."""

from rwkv_cy.kernels.rwkv7_gradient cimport ChannelMixGradient as ChannelMixGradient7
from rwkv_cy.kernels.rwkv8_rc00 cimport ChannelMix
from rwkv_cy.kernels.stack cimport Arena, Pass


# What the recorded pass saves.
cdef struct SavedChannelMix:
    char *k              # (tokens, d_ffn)
    char *mixed          # (tokens, d_model): V max(k, 0)^2


cdef class ChannelMixGradient(ChannelMixGradient7):
    cdef ChannelMix own
    cdef int enn

    cdef SavedChannelMix carve(self, Arena *arena, const Pass *p) noexcept nogil
