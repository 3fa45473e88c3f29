"""The boundary of the nucleus (top-p) of a distribution, computed without sorting the vocabulary."""

cimport cython
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

from rwkv_cy.errors import KernelError

cdef enum:
    BUCKETS = 4096          # weights with the same sign, exponent and five bits of mantissa share a bucket
    SHIFT = 18
    SORTABLE = 256          # with more weights than this, only the bucket of the boundary is sorted

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


@cython.boundscheck(False)
@cython.wraparound(False)
cdef Py_ssize_t find_boundary(
    const float[::1] values, const float[::1] weights, double total, double target, Pair *pairs, float *boundary
) noexcept nogil:
    # The weights below `least` sum to less than total - target: the target is reached without them.
    cdef float least = <float>(0.99 * (total - target) / weights.shape[0])
    cdef double sums[BUCKETS]
    cdef double reached = 0.0
    cdef Py_ssize_t i, count = 0, in_bucket = 0, equals = 0
    cdef int bucket, last = 0
    for i in range(weights.shape[0]):
        pairs[count].value = values[i]
        pairs[count].weight = weights[i]
        count += weights[i] >= least
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


def nucleus_boundary(
    const float[::1] values not None,
    const float[::1] weights not None,
    double total,
    double top_p,
    float[::1] scratch not None,
):
    """Return the value at which the weights, summed from the largest value down, reach `top_p` of their total.

    Parameters
    ----------
    values : float32 [n]
        They define the order of the tokens.
    weights : float32 [n]
        Not negative, in the same order as the values.
    total : float
        Sum of the weights, positive.
    top_p : float
        From 0 to 1.
    scratch : float32 [2 n or more]
        Overwritten.

    Returns
    -------
    value : float
        The smallest value in the nucleus.
    equals : int
        How many of the values equal to it are in the nucleus; all larger ones are.

    Raises
    ------
    KernelError
        If the arrays are empty or of the wrong lengths, or a number is out of range.
    """
    cdef Py_ssize_t n = values.shape[0], equals
    cdef float boundary = 0.0
    if n == 0 or weights.shape[0] != n or scratch.shape[0] < 2 * n:
        raise KernelError(
            f"weights, scratch: expected lengths {n} and {2 * n}, not 0, "
            f"got {weights.shape[0]} and {scratch.shape[0]}"
        )
    if not (0 <= top_p <= 1 and 0 < total):
        raise KernelError(f"top_p, total: expected 0 <= top_p <= 1 and total > 0, got {top_p} and {total}")
    with nogil:
        equals = find_boundary(values, weights, total, top_p * total, <Pair *>&scratch[0], &boundary)
    return boundary, equals


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
