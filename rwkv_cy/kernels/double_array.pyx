"""The building of a double array: tokens into units, in time that grows with their bytes."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc

cdef enum:
    MAX_TRIES = 32          # places that a node fails at before all later ones skip them: keeps the build linear

# A trie as it grows: nodes numbered from the root (0), found by (parent, byte) through a hash table.
cdef struct Node:
    int32_t parent
    int32_t first_child
    int32_t next_sibling
    int32_t children
    uint32_t token          # id + 1, 0 for none
    uint8_t label


cdef struct Growing:
    Node *nodes
    Py_ssize_t count
    int32_t *table          # node number, 0 for an empty place (the root is nobody's child)
    uint64_t mask


cdef struct Array:
    Unit *units
    int32_t *next_free      # circular list of the free units, in order, through 0, which is never free
    int32_t *prev_free
    uint8_t *base_used
    Py_ssize_t size
    int32_t cursor          # the free unit to begin looking at; 0 for the end
    int cursor_count        # nodes of half as many children, or fewer, begin at the start of the list again


cdef inline int32_t child_of(Growing *g, int32_t parent, uint8_t label) noexcept nogil:
    """Return the child's number, a new one where there was none."""
    cdef uint64_t key = (<uint64_t>parent << 8) | label
    cdef uint64_t place = ((key * <uint64_t>0x9E3779B97F4A7C15) >> 20) & g.mask
    cdef int32_t node
    while g.table[place] != 0:
        node = g.table[place]
        if g.nodes[node].parent == parent and g.nodes[node].label == label:
            return node
        place = (place + 1) & g.mask
    node = <int32_t>g.count
    g.count += 1
    g.table[place] = node
    g.nodes[node].parent = parent
    g.nodes[node].label = label
    g.nodes[node].next_sibling = g.nodes[parent].first_child
    g.nodes[parent].first_child = node
    g.nodes[parent].children += 1
    return node


cdef int extend(Array *a, Py_ssize_t size) noexcept nogil:
    """Grow to at least `size` units, the new ones free; return -1 without memory."""
    cdef Py_ssize_t old = a.size, i
    cdef void *memory
    cdef int32_t last
    if size <= old:
        return 0
    size = size + size // 8
    memory = realloc(a.units, size * sizeof(Unit))
    if memory == NULL:
        return -1
    a.units = <Unit *>memory
    memory = realloc(a.next_free, size * sizeof(int32_t))
    if memory == NULL:
        return -1
    a.next_free = <int32_t *>memory
    memory = realloc(a.prev_free, size * sizeof(int32_t))
    if memory == NULL:
        return -1
    a.prev_free = <int32_t *>memory
    memory = realloc(a.base_used, size)
    if memory == NULL:
        return -1
    a.base_used = <uint8_t *>memory
    if old == 0:
        a.next_free[0] = a.prev_free[0] = 0
        a.units[0].base = NO_CHILDREN
        a.units[0].key = LABEL_MASK
        a.base_used[0] = 1
        old = 1
    last = a.prev_free[0]
    for i in range(old, size):
        a.units[i].base = NO_CHILDREN
        a.units[i].key = LABEL_MASK
        a.base_used[i] = 0
        a.prev_free[i] = last
        a.next_free[last] = <int32_t>i
        last = <int32_t>i
    a.next_free[last] = 0
    a.prev_free[0] = last
    a.size = size
    return 0


cdef inline bint is_free(Array *a, Py_ssize_t i) noexcept nogil:
    return i != 0 and (a.units[i].key & LABEL_MASK) == LABEL_MASK


cdef int32_t find_base(Array *a, const uint8_t *labels, int count) noexcept nogil:
    """Find a base, owned by nobody, at which every label falls on a free unit; -1 without memory."""
    cdef int32_t place
    cdef Py_ssize_t base
    cdef int tries = 0, k
    if a.cursor == 0 or count * 2 <= a.cursor_count:
        a.cursor = a.next_free[0]
        a.cursor_count = count
    place = a.cursor
    while True:
        if place == 0:
            place = <int32_t>a.size
            if extend(a, a.size + 512) < 0:
                return -1
        base = <Py_ssize_t>place - labels[0]
        # base + 255 must lie inside: the walk loads units[base + c] for any byte c
        if base > 0 and not a.base_used[base]:
            if base + 256 > a.size and extend(a, base + 256) < 0:
                return -1
            for k in range(1, count):
                if not is_free(a, base + labels[k]):
                    break
            else:
                return <int32_t>base
        place = a.next_free[place]
        tries += 1
        if tries == MAX_TRIES:
            tries = 0
            a.cursor = place


cdef int lay_out(Growing *g, Array *a, int32_t *root_base) noexcept nogil:
    """Place the nodes, those with most children first, so that the single ones fill the holes."""
    cdef Py_ssize_t starts[258]
    cdef Py_ssize_t i
    cdef int32_t *order = <int32_t *>malloc(g.count * sizeof(int32_t))
    cdef int32_t *unit_of = <int32_t *>calloc(g.count, sizeof(int32_t))
    cdef int32_t *base_of = <int32_t *>calloc(g.count, sizeof(int32_t))
    cdef uint8_t labels[256]
    cdef int32_t node, child, base, unit
    cdef int k, result = -1
    if order != NULL and unit_of != NULL and base_of != NULL and extend(a, g.count + 512) == 0:
        for k in range(258):
            starts[k] = 0
        for i in range(g.count):
            starts[257 - g.nodes[i].children] += 1
        for k in range(1, 258):
            starts[k] += starts[k - 1]
        for i in range(g.count):
            k = 256 - g.nodes[i].children
            order[starts[k]] = <int32_t>i
            starts[k] += 1
        result = 0
        for i in range(g.count):
            node = order[i]
            if g.nodes[node].children == 0:
                break
            k = 0
            child = g.nodes[node].first_child
            while child != 0:
                labels[k] = g.nodes[child].label
                k += 1
                child = g.nodes[child].next_sibling
            base = find_base(a, labels, k)
            if base < 0:
                result = -1
                break
            a.base_used[base] = 1
            base_of[node] = base
            child = g.nodes[node].first_child
            while child != 0:
                unit = base + g.nodes[child].label
                a.units[unit].key = (g.nodes[child].token << LABEL_BITS) | g.nodes[child].label
                a.next_free[a.prev_free[unit]] = a.next_free[unit]
                a.prev_free[a.next_free[unit]] = a.prev_free[unit]
                if a.cursor == unit:
                    a.cursor = a.next_free[unit]
                unit_of[child] = unit
                child = g.nodes[child].next_sibling
        for i in range(1, g.count):
            if result == 0:
                a.units[unit_of[i]].base = base_of[i]
        root_base[0] = base_of[0]
    free(order)
    free(unit_of)
    free(base_of)
    return result


cdef int build_units(
    const int64_t *offsets, Py_ssize_t ids, const uint8_t *data,
    Unit **units, Py_ssize_t *size, int32_t *root_base, Py_ssize_t *twins,
) noexcept nogil:
    cdef Growing g
    cdef Array a
    cdef Py_ssize_t total = offsets[ids], i
    cdef int64_t j
    cdef int32_t node
    cdef int result = NO_MEMORY
    cdef uint64_t places = 1024
    while places < <uint64_t>total * 2:
        places *= 2
    g.count = 1
    g.mask = places - 1
    g.nodes = <Node *>calloc(total + 1, sizeof(Node))
    g.table = <int32_t *>calloc(places, sizeof(int32_t))
    a.units = NULL
    a.next_free = NULL
    a.prev_free = NULL
    a.base_used = NULL
    a.size = 0
    a.cursor = 0
    a.cursor_count = 256
    if g.nodes != NULL and g.table != NULL:
        result = DONE
        for i in range(ids):
            if offsets[i] == offsets[i + 1]:
                continue
            node = 0
            for j in range(offsets[i], offsets[i + 1]):
                node = child_of(&g, node, data[j])
            if g.nodes[node].token != 0:
                twins[0] = <Py_ssize_t>g.nodes[node].token - 1
                twins[1] = i
                result = TWINS
                break
            g.nodes[node].token = <uint32_t>i + 1
        if result == DONE and lay_out(&g, &a, root_base) < 0:
            result = NO_MEMORY
    free(g.nodes)
    free(g.table)
    free(a.next_free)
    free(a.prev_free)
    free(a.base_used)
    units[0] = a.units
    size[0] = a.size
    return result
