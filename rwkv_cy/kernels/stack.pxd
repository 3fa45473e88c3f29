"""Declarations for layers: mixes over a batch of sequences, states by address, scratch from one arena."""

from rwkv_cy.kernels.dispatch cimport rk_ops, rk_product, rk_tokens
from rwkv_cy.kernels.matrix cimport Matrix


# One batch of tokens on its way through a layer.
cdef struct Pass:
    const rk_ops *ops
    rk_tokens tokens      # with the address of the layer's row of each sequence's state
    int num_threads
    char *shared          # activations that layers share, Mix.shared_row bytes per token
    const long long *ids  # the tokens, if a mix looks them up in a table; else NULL
    char *embedded        # their embeddings after ln0 (tokens, d_model), if a mix uses them; else NULL
    size_t ahead          # offset, from this layer's row, of the matrix-valued state of the next layer
    Py_ssize_t ahead_bytes  # the first bytes of it, which this layer's last product prefetches; 0: none
    Py_ssize_t prefetched   # the first bytes of this layer's own, which the layer before has prefetched


# Allocates parts of a workspace. If start is NULL it only counts, so that one function both measures and allocates.
cdef struct Arena:
    char *start
    size_t used

# A batch without anything but its tokens.
cdef Pass plain_pass(const rk_ops *ops, rk_tokens tokens, int num_threads) noexcept nogil
cdef char *take(Arena *arena, size_t size) noexcept nogil
cdef size_t product_scratch(const Pass *p, Matrix matrix) noexcept nogil
cdef rk_product shifted(rk_product product, int kind, const char *mix, size_t before) noexcept nogil
cdef void last_product(const Pass *p, const rk_product *product, char *scratch) noexcept nogil
cdef void keep_last(const Pass *p, const char *x, size_t row, size_t field) noexcept nogil
cdef const char *pointer(array)


cdef class Mix:
    cdef readonly Py_ssize_t d_model
    cdef readonly Py_ssize_t state_size    # elements of a layer's row of the state
    cdef readonly size_t itemsize
    cdef readonly size_t shared_row
    cdef size_t kv                         # byte offset and size of a matrix-valued state; 0 bytes without one
    cdef Py_ssize_t kv_bytes
    cdef readonly Py_ssize_t vocab_size    # rows of the tables in which the mix looks tokens up; 0 without tables
    cdef readonly bint uses_embedding      # whether it uses the token's embedding after ln0
    cdef list _arrays                      # owns the vectors that the mix points to

    # Bytes of scratch that `run` and `update_state` need for the batch.
    cdef size_t scratch(self, const Pass *p) noexcept nogil
    # y += mix(x); updates the state of each sequence.
    cdef void run(self, const Pass *p, const char *x, char *scratch, char *y) noexcept nogil
    # Begin to read what `run` looks up in tables.
    cdef void prefetch(self, const Pass *p) noexcept nogil
    # Update the states as `run` does, without computing outputs.
    cdef void update_state(self, const Pass *p, const char *x, char *scratch) noexcept nogil
    cdef const char *vector(self, parameters, name, real) except NULL
    cdef const char *keep(self, array) except NULL


cdef class Layer:
    cdef readonly Mix time_mix
    cdef readonly Mix channel_mix
    cdef readonly Py_ssize_t d_model, state_size
    cdef readonly Py_ssize_t vocab_size    # as of the mixes
    cdef readonly bint uses_embedding
    cdef list _norms                       # (weight, bias) of ln1, ln2, and of ln0 in layer 0
    cdef readonly bint is_first
    cdef const char *ln0_weight
    cdef const char *ln0_bias
    cdef const char *ln1_weight
    cdef const char *ln1_bias
    cdef const char *ln2_weight
    cdef const char *ln2_bias
    cdef double eps
    cdef bint halve                        # the residual stream is halved after this layer
    cdef size_t itemsize

    cdef size_t scratch(self, const Pass *p) noexcept nogil
    cdef void run(self, const Pass *p, char *x, char *scratch) noexcept nogil
    cdef void update_state(self, const Pass *p, char *x, char *scratch) noexcept nogil
    cdef void run_last(self, const Pass *p, char *x, char *scratch) noexcept nogil
    cdef size_t scratch_last(self, const Pass *p, Py_ssize_t left_out) noexcept nogil
