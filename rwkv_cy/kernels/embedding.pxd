"""Rows of a table of tokens, converted to activations."""

# Raise KernelError unless every id is the number of a row.
cdef int check_ids(str what, const long long *ids, Py_ssize_t count, Py_ssize_t rows) except -1


cdef class Embedding:
    cdef object _array               # owns the memory that _data points to
    cdef const char *_data
    cdef readonly Py_ssize_t vocab_size, width
    cdef Py_ssize_t _row_bytes
    cdef int _code
    cdef bint _double_precision

    # Begin to read the rows of `count` ids, which must be in range, from a mapped file.
    cdef void prefetch(self, const long long *ids, Py_ssize_t count) noexcept nogil
    # Convert the rows of `count` ids, which must be in range, to `out` (count, width).
    cdef void write(self, const long long *ids, Py_ssize_t count, char *out) noexcept nogil
