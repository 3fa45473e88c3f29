"""The layer of RWKV-4."""

from rwkv_cy.kernels.dispatch cimport rk_ops, rk_tokens
from rwkv_cy.kernels.matrix cimport Matrix


cdef class TimeMix:
    cdef Matrix key, value, receptance, output
    cdef const char *decay           # (d_att,), -exp(time_decay)
    cdef const char *first           # (d_att,)
    cdef const char *mix_k           # (d_model,)
    cdef const char *mix_v
    cdef const char *mix_r
    cdef list _arrays                # keeps what the pointers point to
    cdef readonly Py_ssize_t d_model, d_att
    cdef size_t itemsize

    cdef size_t scratch_bytes(self, const rk_ops *ops, Py_ssize_t tokens, int num_threads) noexcept nogil
    cdef void run(self, const rk_ops *ops, const char *x, const rk_tokens *all, char *scratch, int num_threads,
                  char *y) noexcept nogil
    cdef void advance(self, const rk_ops *ops, const char *x, const rk_tokens *all, char *scratch,
                      int num_threads) noexcept nogil


cdef class ChannelMix:
    cdef Matrix key, value, receptance
    cdef const char *mix_k           # (d_model,)
    cdef const char *mix_r
    cdef list _arrays
    cdef readonly Py_ssize_t d_model, d_ffn
    cdef size_t itemsize

    cdef size_t scratch_bytes(self, const rk_ops *ops, Py_ssize_t tokens, int num_threads) noexcept nogil
    cdef void run(self, const rk_ops *ops, const char *x, const rk_tokens *all, char *scratch, int num_threads,
                  char *y) noexcept nogil
