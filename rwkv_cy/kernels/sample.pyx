"""The nucleus (top-p) of a distribution, found without sorting the vocabulary; masks of a grammar."""

cimport cython
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

import numpy as np

from rwkv_cy.errors import KernelError

from rwkv_cy.kernels.dispatch cimport at_least, weigh

cdef enum:
    BUCKETS = 4096          # weights with the same sign, exponent and five bits of mantissa share a bucket
    SHIFT = 18
    SORTABLE = 256          # with more weights than this, only the bucket of the boundary is sorted
    MOST_VALUES = 1 << 30   # places are 32-bit integers

cdef double LEAST_SCALE = 1e-37
cdef double MOST_SCALE = 1e37

cdef struct Pair:
    float value
    float weight


cdef inline int bucket_of(float weight) noexcept nogil:
    # non-negative floats have the same order as their bits
    cdef uint32_t bits
    memcpy(&bits, &weight, 4)
    bits >>= SHIFT
    return <int>bits if bits < BUCKETS else BUCKETS - 1


cdef int larger_first(const void *a, const void *b) noexcept nogil:
    cdef float x = (<const Pair *>a).value, y = (<const Pair *>b).value
    return (x < y) - (x > y)


cdef Py_ssize_t find_boundary(
    Pair *pairs, Py_ssize_t count, double target, float *boundary
) noexcept nogil:
    cdef double sums[BUCKETS]
    cdef double reached = 0.0
    cdef Py_ssize_t i, in_bucket = 0, equals = 0
    cdef int bucket, last = 0
    if count > SORTABLE:
        memset(sums, 0, sizeof(sums))
        for i in range(count):
            sums[bucket_of(pairs[i].weight)] += pairs[i].weight
        for bucket in range(BUCKETS - 1, -1, -1):
            if sums[bucket] > 0:
                last = bucket
                if reached + sums[bucket] >= target:
                    break
                reached += sums[bucket]
        else:
            reached = -INFINITY  # rounding kept the sum below the target: take the whole last bucket
        for i in range(count):
            pairs[in_bucket] = pairs[i]
            in_bucket += bucket_of(pairs[i].weight) == last
        count = in_bucket
    qsort(pairs, count, sizeof(Pair), larger_first)
    for i in range(count):
        equals = equals + 1 if i > 0 and pairs[i].value == boundary[0] else 1
        boundary[0] = pairs[i].value
        reached += pairs[i].weight
        if reached >= target:
            break
    return equals


@cython.boundscheck(False)
@cython.wraparound(False)
def nucleus(
    const float[::1] values not None,
    float highest,
    double scale,
    double top_p,
    bint keep_equals,
    float[::1] scratch not None,
):
    """Return the places of the likeliest values that reach `top_p` together, p = softmax(scale * values).

    Parameters
    ----------
    values : float32 [n]
        Numbers, or -inf.
    highest : float
        The largest value, a number.
    scale : float
        Not negative: 1 / temperature.
    top_p : float
        From 0 to 1.
    keep_equals : bool
        Keep all values equal to the smallest that is kept; otherwise the first of them, as many as it takes.
    scratch : float32 [4 n or more]
        Overwritten.

    Returns
    -------
    numpy.ndarray of int64
        Ascending.

    Raises
    ------
    KernelError
        If the arrays are empty or of the wrong lengths, or a number is out of range.
    """
    cdef Py_ssize_t n = values.shape[0], count, equals, surplus, i
    if n == 0 or n > MOST_VALUES or scratch.shape[0] < 4 * n:
        raise KernelError(
            f"values, scratch: expected 1 to {MOST_VALUES} values and {4 * n} elements, got {n} and {scratch.shape[0]}"
        )
    if not (0 <= top_p <= 1 and 0 <= scale < INFINITY):
        raise KernelError(f"top_p, scale: expected 0 <= top_p <= 1 and a number, got {top_p} and {scale}")
    cdef float *weights = &scratch[0]
    cdef int *places = <int *>&scratch[n]
    cdef Pair *pairs = <Pair *>&scratch[2 * n]
    cdef float boundary = 0.0
    # A scale of 0 would make NaN of -inf, and one beyond float32 of 0.
    cdef double total = weigh(&values[0], n, highest, <float>min(max(scale, LEAST_SCALE), MOST_SCALE), weights)
    if not 0 < total < INFINITY:
        raise KernelError(f"values, highest: expected numbers or -inf, and the largest of them, got {highest}")
    cdef double target = top_p * total
    # The weights below this sum to less than total - target: the target is reached without them.
    count = at_least(weights, n, <float>(0.99 * (total - target) / n), places)
    with nogil:
        for i in range(count):
            pairs[i].value = values[places[i]]
            pairs[i].weight = weights[places[i]]
        equals = find_boundary(pairs, count, target, &boundary)
    count = at_least(&values[0], n, boundary, places)
    found = np.empty(count, np.int64)
    cdef long long[::1] kept = found
    surplus = 0
    with nogil:
        if not keep_equals:
            surplus = -equals
            for i in range(count):
                surplus += values[places[i]] == boundary
        # The last of the equal values are left out: from the end, until none is too many.
        equals = count - surplus
        for i in range(count - 1, -1, -1):
            if surplus > 0 and values[places[i]] == boundary:
                surplus -= 1
            else:
                kept[i - surplus] = places[i]
    return found[:equals]


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
