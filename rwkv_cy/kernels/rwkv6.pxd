"""The time mix of RWKV-6."""

from rwkv_cy.kernels.dispatch cimport rk_matrix
from rwkv_cy.kernels.matrix cimport Matrix
from rwkv_cy.kernels.rwkv5 cimport RK_WKV6, rk_wkv6
from rwkv_cy.kernels.stack cimport Arena, Pass
from rwkv_cy.kernels.time_mix cimport BaseTimeMix


cdef enum:
    MIXES = 5        # of w, k, v, r and g, the order of their low-rank factors


cdef struct TimeMixBuffers:
    char *r          # (tokens, d_att), as are k, v, w and g
    char *k
    char *v
    char *w
    char *g
    char *hidden     # (tokens, MIXES * rank)
    char *hidden_w   # (tokens, rank of the decay)
    char *more[MIXES]  # (tokens, d_model) of each: what is added to the mixes for each token
    char *wkv        # scratch of each thread
    char *rest       # scratch of the products


cdef class TimeMix(BaseTimeMix):
    cdef readonly Matrix gate
    cdef readonly Matrix w1, decay_w1, decay_w2
    cdef list _factors                                     # owns what w2 points to
    cdef rk_matrix[MIXES] w2                               # (d_model, rank) of each mix
    cdef rk_wkv6 call                                      # parameters and sizes; `wkv` sets the activations
    cdef const char *maa_x
    cdef const char *maa[MIXES]

    cdef TimeMixBuffers carve(self, Arena *arena, const Pass *p) noexcept nogil
