"""The backward pass of the channel mix of RWKV-7a; that of the time mix is RWKV-7's."""

from rwkv_cy.kernels.gradient cimport Weight
from rwkv_cy.kernels.rwkv7_gradient cimport ChannelMixGradient as ChannelMixGradient7, ChannelMixScratch
from rwkv_cy.kernels.rwkv7a cimport ChannelMix
from rwkv_cy.kernels.stack cimport Arena, Pass


# Scratch of the recorded pass and of the backward pass. In shapes, size is the rank.
cdef struct DeepEmbedScratch:
    ChannelMixScratch base
    char *table          # (tokens, size, size), as is d_table
    char *d_table
    char *hidden         # (tokens, size), as are those below
    char *mapped
    char *d_hidden
    char *d_mapped
    char *factor         # (tokens, d_ffn), as are those below
    char *scaled
    char *d_factor
    char *d_input        # (tokens, d_model)


cdef class ChannelMixGradient(ChannelMixGradient7):
    cdef ChannelMix own
    cdef Weight s1, s2, s_emb_x
    cdef int s0, s_emb

    cdef DeepEmbedScratch carve_all(self, Arena *arena, const Pass *p) noexcept nogil
    cdef void factors(self, const Pass *p, const char *x, const DeepEmbedScratch *t) noexcept nogil
