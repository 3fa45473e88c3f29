"""The channel mix of RWKV-7a; the time mix is that of RWKV-7."""

from rwkv_cy.kernels.embedding cimport Embedding
from rwkv_cy.kernels.matrix cimport Matrix
from rwkv_cy.kernels.stack cimport Arena, Pass
from rwkv_cy.kernels.rwkv7 cimport ChannelMix as ChannelMix7


cdef struct DeepEmbedBuffers:
    char *k          # (tokens, d_ffn)
    char *table      # (tokens, size * size): the matrix of each token
    char *residual   # (tokens, size * size)
    char *hidden     # (tokens, size)
    char *mapped     # (tokens, size)
    char *factor     # (tokens, d_ffn)
    char *mixed      # (tokens, d_model)
    char *rest       # scratch of the products


cdef class ChannelMix(ChannelMix7):
    cdef readonly Matrix s1, s2, s_emb_x
    cdef readonly Embedding s_emb
    cdef readonly Py_ssize_t size      # the rank: a row of the table is a matrix (size, size)
    cdef const char *s0

    cdef DeepEmbedBuffers carve_all(self, Arena *arena, const Pass *p) noexcept nogil
