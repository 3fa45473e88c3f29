"""Whether all numbers of an array are finite."""

from cython cimport floating


def all_finite(const floating[:, ::1] x):
    """Return whether no number is NaN or infinite, without the array that ``numpy.isfinite`` makes on the way."""
    cdef Py_ssize_t i, n = x.shape[0] * x.shape[1]
    cdef const floating *p
    cdef int found = 0
    if n == 0:
        return True
    p = &x[0, 0]
    with nogil:
        # x - x is 0, or NaN where x is not finite. No early end, so that the loop becomes vectors.
        for i in range(n):
            found |= not p[i] - p[i] == 0
    return found == 0
