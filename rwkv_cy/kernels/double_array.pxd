"""A double array: what its units look like, and the function that builds them."""

# Every node but the root is one unit; the child of a node by byte c is units[base + c]. A unit carries the byte
# that leads to it (`label`), so a look-up is one load and one comparison, and no two nodes may own the same base:
# then a unit with the label c at base + c can only be the child that was asked for.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

cdef struct Unit:
    int32_t base    # where this node's children begin; NO_CHILDREN for a leaf
    uint32_t key    # (token id + 1, or 0 for none) << LABEL_BITS | label

cdef enum:
    LABEL_BITS = 9
    LABEL_MASK = 511        # also the label of an empty unit: it equals no byte
    NO_CHILDREN = 0         # a base that no node owns

cdef enum Outcome:
    DONE = 0
    NO_MEMORY = 1
    TWINS = 2               # two ids have the same bytes

# Token i is data[offsets[i]:offsets[i + 1]]. `units`, to be freed by the caller whatever the outcome, has `size`
# units, and base + 255 lies inside for every base; `twins` are the two ids with the same bytes.
cdef int build_units(
    const int64_t *offsets, Py_ssize_t ids, const uint8_t *data,
    Unit **units, Py_ssize_t *size, int32_t *root_base, Py_ssize_t *twins,
) noexcept nogil
