"""The channel mix of RWKV-8 rc00; the time mix is that of RWKV-7."""

from rwkv_cy.kernels.embedding cimport Embedding
from rwkv_cy.kernels.stack cimport Arena, Pass
from rwkv_cy.kernels.rwkv7 cimport ChannelMix as ChannelMix7, ChannelMixBuffers


cdef class ChannelMix(ChannelMix7):
    cdef readonly Embedding enn
