"""The backward pass of the two mixes of RWKV-7."""

from rwkv_cy.kernels.dispatch cimport rk_shift_gradient
from rwkv_cy.kernels.gradient cimport Backward, MixGradient, Weight
from rwkv_cy.kernels.rwkv7 cimport ChannelMix, TimeMix, rk_wkv7
from rwkv_cy.kernels.stack cimport Arena, Pass
from rwkv_cy.kernels.time_mix_gradient cimport BaseTimeMixGradient

cdef extern from "wkv/wkv7_gradient.h" nogil:
    ctypedef struct rk_wkv7_gradient:
        rk_wkv7 forward
        const void *dy
        void *dr
        void *dw
        void *dk
        void *da
        void *dg
        void *dv_mix
        void *dv
        void *dv_first


cdef enum:
    LERPS = 6            # token shifts: of r, w, k, v, a and g
    SUMS = 8             # RK_WKV7_SUMS


# What the recorded pass saves, each (tokens, d_att) or (tokens, rank).
cdef struct SavedTimeMix:
    char *r
    char *k
    char *v
    char *gated          # what the output matrix is multiplied with
    char *hidden_w
    char *hidden_a
    char *hidden_g
    char *hidden_v


# Scratch of the recorded pass and of the backward pass, each (tokens, d_att) unless said otherwise.
cdef struct TimeMixScratch:
    char *w
    char *a
    char *g
    char *v_mix
    char *v_used
    char *y
    char *bonus          # (tokens, heads)
    char *dy
    char *dr
    char *dk
    char *dv
    char *dw
    char *da
    char *dg
    char *dv_mix
    char *activated      # (tokens, largest rank), as is d_hidden
    char *d_hidden
    char *shifted        # (tokens, d_model), as are d_more and d_shifted
    char *d_more
    char *d_shifted[LERPS]
    char *parts          # sums of each sequence
    char *rest


cdef class TimeMixGradient(BaseTimeMixGradient):
    cdef TimeMix mix
    cdef Weight w1, w2, a1, a2, g1, g2, v1, v2
    cdef int[LERPS] mixes
    cdef int[SUMS] sums            # parameters in the order of the sums; -1 for one that the layer does not have
    cdef Py_ssize_t most_rank

    cdef SavedTimeMix carve(self, Arena *arena, const Pass *p) noexcept nogil
    cdef TimeMixScratch carve_scratch(self, Arena *arena, const Pass *p) noexcept nogil
    cdef void second_products(self, const Pass *p, const SavedTimeMix *s, const TimeMixScratch *t) noexcept nogil
    cdef rk_wkv7 forward_call(self, const Pass *p, const SavedTimeMix *s, const TimeMixScratch *t) noexcept nogil
    cdef rk_shift_gradient low_rank(self, const Backward *b, const TimeMixScratch *t, Weight first, Weight second,
                                    int activation, const char *x, const char *mix, int parameter, const char *hidden,
                                    const char *dy, char *d_shifted) noexcept nogil


# Scratch of the recorded pass and of the backward pass.
cdef struct ChannelMixScratch:
    char *shifted        # (tokens, d_model), as is d_shifted
    char *d_shifted
    char *hidden         # (tokens, d_ffn), as is dk
    char *dk
    char *rest


cdef class ChannelMixGradient(MixGradient):
    cdef ChannelMix mix
    cdef Weight key, value
    cdef int mix_k

    cdef ChannelMixScratch carve_scratch(self, Arena *arena, const Pass *p) noexcept nogil
    # Back from dk, the gradient of k = K lerp(x), to dx.
    cdef void key_backward(self, const Backward *b, const char *x, const char *dk, const ChannelMixScratch *t,
                           char *dx) noexcept nogil
