"""The backward pass of the time mix of RWKV-6; that of the channel mix is RWKV-4's."""

from rwkv_cy.kernels.gradient cimport Backward, Weight
from rwkv_cy.kernels.rwkv5_gradient cimport SUMS
from rwkv_cy.kernels.rwkv6 cimport MIXES, TimeMix
from rwkv_cy.kernels.stack cimport Arena, Pass
from rwkv_cy.kernels.time_mix_gradient cimport BaseTimeMixGradient


# What the recorded pass saves, each (tokens, d_att) unless said otherwise.
cdef struct SavedTimeMix:
    char *r
    char *k
    char *v
    char *g
    char *gated          # what the output matrix is multiplied with
    char *hidden         # (tokens, MIXES * rank)
    char *hidden_w       # (tokens, rank of the decay)


# Scratch of the recorded pass and of the backward pass, each (tokens, d_att) unless said otherwise.
cdef struct TimeMixScratch:
    char *w
    char *y
    char *dy
    char *dr
    char *dk
    char *dv
    char *dw
    char *dg
    char *activated      # (tokens, MIXES * rank), as are d_hidden and `part`
    char *d_hidden
    char *part
    char *activated_w    # (tokens, rank of the decay), as is d_hidden_w
    char *d_hidden_w
    char *shifted        # (tokens, d_model), as are those below
    char *more[MIXES]
    char *d_more[MIXES]
    char *d_shifted[MIXES]
    char *sums           # of each sequence
    char *rest


cdef class TimeMixGradient(BaseTimeMixGradient):
    cdef TimeMix mix
    cdef Weight gate, w1, decay_w1, decay_w2
    cdef void **second             # the MIXES matrices of time_maa_w2, each a Weight
    cdef int mix_x
    cdef int[MIXES] mixes
    cdef int[SUMS] sums

    cdef SavedTimeMix carve(self, Arena *arena, const Pass *p) noexcept nogil
    cdef TimeMixScratch carve_scratch(self, Arena *arena, const Pass *p) noexcept nogil
    cdef void more(self, const Pass *p, const SavedTimeMix *s, const TimeMixScratch *t) noexcept nogil
    cdef void decay(self, const Pass *p, const SavedTimeMix *s, const TimeMixScratch *t) noexcept nogil
    cdef void more_gradient(self, const Backward *b, const TimeMixScratch *t) noexcept nogil
