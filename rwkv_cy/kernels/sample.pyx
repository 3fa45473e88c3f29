"""The nucleus (top-p) of distributions, found without sorting the vocabulary; masks of a grammar."""

cimport cython
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc

import numpy as np

from rwkv_cy.errors import KernelError

from rwkv_cy.kernels.dispatch cimport RK_MOST_VALUES, copy_finite, find_nuclei, nuclei_scratch, rk_nucleus

cdef double LEAST_SCALE = 1e-37
cdef double MOST_SCALE = 1e37


def all_finite(const float[::1] values not None, float[::1] copy=None):
    """Return whether all numbers are finite.

    Parameters
    ----------
    values : float32 [n]
    copy : float32 [n], optional
        Receives a copy of them.

    Raises
    ------
    KernelError
        If the lengths differ.
    """
    if copy is not None and values.shape[0] != copy.shape[0]:
        raise KernelError(f"copy: expected {values.shape[0]} elements, got {copy.shape[0]}")
    if values.shape[0] == 0:
        return True
    return copy_finite(&values[0], values.shape[0], NULL if copy is None else &copy[0])


cdef class NucleusSearch:
    """Finds the likeliest values that reach `top_p` together, p = softmax(scale * values); keeps its memory."""

    cdef object _scratch
    cdef object _places

    def __init__(self):
        self._scratch = np.empty(1, np.float32)
        self._places = np.empty((0, 0), np.int32)

    def find(self, rows, int num_threads=1):
        """Find the nuclei of rows, in parallel.

        Parameters
        ----------
        rows : sequence of (values, scale, top_p, keep_equals)
            values, float32 [n]: numbers, or -inf; subnormal ones count as zero. scale: not negative, 1 / temperature.
            top_p: from 0 to 1. keep_equals: whether all values equal to the smallest that is kept are kept too;
            otherwise the first of them, as many as it takes.
        num_threads : int, default 1
            Threads to use; the result is the same for every number.

        Returns
        -------
        list of (places, largest)
            places, int64, ascending; none if the largest value is not finite.

        Raises
        ------
        KernelError
            If values are empty, or a number is out of range.
        """
        cdef Py_ssize_t count = len(rows), i
        cdef const float[::1] values
        cdef double scale, top_p
        if num_threads < 1:
            raise KernelError(f"NucleusSearch: expected at least one thread, got {num_threads}")
        num_threads = min(num_threads, max(count, 1))  # each needs memory
        self._ensure(count, max((len(row[0]) for row in rows), default=0), num_threads)
        cdef float[::1] scratch = self._scratch
        cdef int[:, ::1] places = self._places
        cdef rk_nucleus *nuclei = <rk_nucleus *>malloc((count + 1) * sizeof(rk_nucleus))
        if nuclei == NULL:
            raise MemoryError
        try:
            for i, (values, scale, top_p, keep_equals) in enumerate(rows):
                if not 0 < values.shape[0] <= RK_MOST_VALUES:
                    raise KernelError(f"values: expected 1 to {RK_MOST_VALUES}, got {values.shape[0]}")
                if not (0 <= top_p <= 1 and 0 <= scale < INFINITY):
                    raise KernelError(f"top_p, scale: expected 0 <= top_p <= 1 and a number, got {top_p} and {scale}")
                # A scale of 0 would make NaN of -inf, and one beyond float32 of 0.
                scale = min(max(scale, LEAST_SCALE), MOST_SCALE)
                nuclei[i] = rk_nucleus(
                    &values[0], values.shape[0], top_p, <float>scale, keep_equals, &places[i, 0], 0, 0.0
                )
            find_nuclei(nuclei, count, &scratch[0], num_threads)
            return [(self._places[i, : nuclei[i].count].astype(np.int64), nuclei[i].largest) for i in range(count)]
        finally:
            free(nuclei)

    cdef int _ensure(self, Py_ssize_t rows, Py_ssize_t longest, int num_threads) except -1:
        cdef Py_ssize_t size = nuclei_scratch(longest, num_threads)
        if len(self._scratch) < size:
            self._scratch = np.empty(size, np.float32)
        if self._places.shape[0] < rows or self._places.shape[1] < longest:
            rows, longest = max(rows, self._places.shape[0]), max(longest, self._places.shape[1])
            self._places = np.empty((rows, longest), np.int32)
        return 0


@cython.boundscheck(False)
@cython.wraparound(False)
cdef void forbid_unset(const uint32_t[::1] mask, float[::1] logits) noexcept nogil:
    cdef Py_ssize_t word, token, end
    cdef uint32_t bits
    for word in range((logits.shape[0] + 31) // 32):
        bits = mask[word]
        if bits == 0xffffffffu:
            continue
        end = min(32 * word + 32, logits.shape[0])
        for token in range(32 * word, end):
            if not bits & 1:
                logits[token] = -INFINITY
            bits >>= 1


def apply_mask(const uint32_t[::1] mask not None, float[::1] logits not None):
    """Set the logits of forbidden tokens to -inf, in place.

    Parameters
    ----------
    mask : uint32 [at least vocab_size / 32]
        A bit for each token, from the lowest of the first word on; 0 forbids it.
    logits : float32 [vocab_size]

    Raises
    ------
    KernelError
        If the mask is too short.
    """
    if 32 * mask.shape[0] < logits.shape[0]:
        raise KernelError(f"mask: expected at least {(logits.shape[0] + 31) // 32} words, got {mask.shape[0]}")
    with nogil:
        forbid_unset(mask, logits)
