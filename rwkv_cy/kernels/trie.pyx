"""Longest match over bytes: a double-array trie of a vocabulary, and the way back from ids to bytes."""

# Layout. Every node but the root is one 8-byte unit; the child of a node by byte c is units[base + c].
# A unit carries the byte that leads to it (`label`), so a look-up is one load and one comparison, and no two
# nodes may own the same base: then a unit with the label c at base + c can only be the child that was asked for.

cimport cython
from cpython.bool cimport PyBool_Check
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_New, PyList_SET_ITEM
from cpython.long cimport PyLong_CheckExact
from cpython.ref cimport Py_INCREF
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy

from operator import index as as_index

from rwkv_cy.errors import KernelError, TokenError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    long PyLong_AsLongAndOverflow(object number, int *overflow) except? -1

cdef struct Unit:
    int32_t base    # where this node's children begin; NO_CHILDREN for a leaf
    uint32_t key    # (token id + 1, or 0 for none) << LABEL_BITS | label

cdef enum:
    LABEL_BITS = 9
    LABEL_MASK = 511        # also the label of an empty unit: it equals no byte
    NO_CHILDREN = 0         # a base that no node owns
    MAX_TRIES = 256         # places that a node fails at before all later ones skip them: keeps the build linear

#: Ids must be below this.
MAX_IDS = (1 << (32 - LABEL_BITS)) - 1
#: Memory of one Python integer and its place in a list.
NUMBER_BYTES = 40
#: The bytes of all tokens together must be below this.
MAX_BYTES = 1 << 26

# A trie as it grows: nodes numbered from the root (0), found by (parent, byte) through a hash table.
cdef struct Node:
    int32_t first_child
    int32_t next_sibling
    int32_t children
    uint32_t token          # id + 1, 0 for none
    uint8_t label


cdef struct Growing:
    Node *nodes
    Py_ssize_t count
    int32_t *table          # node number, 0 for an empty place (the root is nobody's child)
    uint64_t *keys          # parent << 8 | label
    uint64_t mask


cdef struct Array:
    Unit *units
    int32_t *next_free      # circular list of the free units, in order, through 0, which is never free
    int32_t *prev_free
    uint8_t *base_used
    Py_ssize_t size
    int32_t cursor          # the free unit to begin looking at; 0 for the end
    int cursor_count        # nodes of half as many children, or fewer, begin at the start of the list again


cdef inline int32_t child_of(Growing *g, int32_t parent, uint8_t label, bint create) noexcept nogil:
    """Return the child's number; 0 where there is none and `create` is false."""
    cdef uint64_t key = (<uint64_t>parent << 8) | label
    cdef uint64_t place = ((key * <uint64_t>0x9E3779B97F4A7C15) >> 20) & g.mask
    cdef int32_t node
    while g.table[place] != 0:
        if g.keys[place] == key:
            return g.table[place]
        place = (place + 1) & g.mask
    if not create:
        return 0
    node = <int32_t>g.count
    g.count += 1
    g.table[place] = node
    g.keys[place] = key
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


cdef class Trie:
    """A vocabulary: token `i` is ``data[offsets[i]:offsets[i + 1]]``; an empty one is an id without bytes.

    Parameters
    ----------
    offsets : int64 [ids + 1]
        Rising, from 0 to ``len(data)``.
    data : bytes
        The tokens' bytes, one after the other.

    Raises
    ------
    KernelError
        If the offsets do not fit the data, two ids have the same bytes, or there are more than
        ``MAX_IDS`` ids or ``MAX_BYTES`` bytes.

    Notes
    -----
    A double array (J. Aoe, "An efficient digital search algorithm by using a double-array structure", 1989).
    """

    cdef Unit *units
    cdef int32_t root_base
    cdef Py_ssize_t size
    cdef const int64_t[::1] offsets
    cdef bytes data
    cdef list numbers       # every id as a Python integer: making one costs more than finding it

    def __cinit__(self, const int64_t[::1] offsets, bytes data):
        cdef Py_ssize_t ids = offsets.shape[0] - 1, i
        cdef Py_ssize_t total = len(data)
        if ids < 0 or ids > MAX_IDS:
            raise KernelError(f"offsets: expected 1 to {MAX_IDS + 1} of them, got {ids + 1}")
        if total > MAX_BYTES:
            raise KernelError(f"data: expected at most {MAX_BYTES} bytes, got {total}")
        if offsets[0] != 0 or offsets[ids] != total:
            raise KernelError(f"offsets: expected 0 to {total}, got {offsets[0]} to {offsets[ids]}")
        for i in range(ids):
            if offsets[i + 1] < offsets[i]:
                raise KernelError(f"offsets: expected rising ones, got {offsets[i + 1]} after {offsets[i]}")
        self.offsets = offsets
        self.data = data
        self._build(ids, total)
        self.numbers = list(range(ids))

    def __dealloc__(self):
        free(self.units)

    cdef int _build(self, Py_ssize_t ids, Py_ssize_t total) except -1:
        cdef Growing g
        cdef Array a
        cdef Py_ssize_t i, duplicate = -1
        cdef int64_t j
        cdef int32_t node
        cdef int result = -1
        cdef uint64_t places = 1024
        cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(self.data)
        while places < <uint64_t>total * 2:
            places *= 2
        g.count = 1
        g.mask = places - 1
        g.nodes = <Node *>calloc(total + 1, sizeof(Node))
        g.table = <int32_t *>calloc(places, sizeof(int32_t))
        g.keys = <uint64_t *>malloc(places * sizeof(uint64_t))
        a.units = NULL
        a.next_free = NULL
        a.prev_free = NULL
        a.base_used = NULL
        a.size = 0
        a.cursor = 0
        a.cursor_count = 256
        with nogil:
            if g.nodes != NULL and g.table != NULL and g.keys != NULL:
                for i in range(ids):
                    if self.offsets[i] == self.offsets[i + 1]:
                        continue
                    node = 0
                    for j in range(self.offsets[i], self.offsets[i + 1]):
                        node = child_of(&g, node, text[j], True)
                    if g.nodes[node].token != 0:
                        duplicate = i
                        break
                    g.nodes[node].token = <uint32_t>i + 1
                if duplicate < 0:
                    result = lay_out(&g, &a, &self.root_base)
        if duplicate >= 0:
            other = g.nodes[node].token - 1
        free(g.nodes)
        free(g.table)
        free(g.keys)
        free(a.next_free)
        free(a.prev_free)
        free(a.base_used)
        self.units = a.units
        self.size = a.size
        if duplicate >= 0:
            raise KernelError(f"data: expected different tokens, got the same bytes for ids {other} and {duplicate}")
        if result < 0:
            raise MemoryError
        return 0

    @property
    def nbytes(self):
        """Bytes of memory that the trie takes, the tokens' own bytes and the ids' integers included."""
        cdef Py_ssize_t ids = self.offsets.shape[0] - 1
        return self.size * sizeof(Unit) + (ids + 1) * sizeof(int64_t) + ids * NUMBER_BYTES + len(self.data)

    def encode(self, text):
        """Cut `text` into the longest tokens, from the left.

        Parameters
        ----------
        text : str or bytes
            A str stands for its bytes in UTF-8.

        Returns
        -------
        list of int

        Raises
        ------
        KernelError
            If no token begins at some place; the message names the place.
        UnicodeEncodeError
            If `text` is a str with half of a surrogate pair.
        """
        cdef Py_ssize_t n = 0, capacity, count, done = 0, i
        cdef const char *start
        cdef int32_t *found
        cdef int32_t *more
        if PyUnicode_Check(text):
            start = PyUnicode_AsUTF8AndSize(text, &n)
        elif PyBytes_Check(text):
            start = PyBytes_AS_STRING(text)
            n = PyBytes_GET_SIZE(text)
        else:
            raise KernelError(f"text: expected str or bytes, got {type(text).__name__}")
        capacity = n // 2 + 16
        found = <int32_t *>malloc(capacity * sizeof(int32_t))
        if found == NULL:
            raise MemoryError
        try:
            with nogil:
                count = self._walk(<const uint8_t *>start, n, &done, found, capacity)
            if done < n and count == capacity:
                capacity = n  # one token a byte is the most there can be
                more = <int32_t *>realloc(found, capacity * sizeof(int32_t))
                if more == NULL:
                    raise MemoryError
                found = more
                with nogil:
                    count += self._walk(<const uint8_t *>start, n, &done, found + count, capacity - count)
            if done < n:
                raise KernelError(f"byte {done}: expected one that begins a token, got {<uint8_t>start[done]:#04x}")
            result = PyList_New(count)
            for i in range(count):
                number = <object>PyList_GET_ITEM(self.numbers, found[i])
                Py_INCREF(number)  # the list steals one
                PyList_SET_ITEM(result, i, number)
        finally:
            free(found)
        return result

    @cython.boundscheck(False)
    @cython.wraparound(False)
    cdef Py_ssize_t _walk(
        self, const uint8_t *text, Py_ssize_t n, Py_ssize_t *done, int32_t *found, Py_ssize_t capacity
    ) noexcept nogil:
        """Write up to `capacity` ids; return how many, and in `done` how far they reach."""
        cdef Py_ssize_t i = done[0], j, end, count = 0
        cdef Unit *units = self.units
        cdef Unit unit
        cdef int32_t base
        cdef uint32_t token
        cdef uint8_t c
        while i < n and count < capacity:
            base = self.root_base
            token = 0
            end = i
            j = i
            while j < n:
                c = text[j]
                unit = units[base + c]
                if (unit.key & LABEL_MASK) != c:
                    break
                j += 1
                base = unit.base
                if unit.key >> LABEL_BITS:
                    token = unit.key >> LABEL_BITS
                    end = j
            if token == 0:
                break
            found[count] = <int32_t>(token - 1)
            count += 1
            i = end
        done[0] = i
        return count

    def decode(self, tokens):
        """Join the bytes of `tokens`, an iterable of ints.

        Raises
        ------
        TokenError
            If one is no integer, or lies outside ``0 .. ids - 1``.
        """
        cdef list ids = tokens if type(tokens) is list else list(tokens)
        cdef Py_ssize_t n = len(ids), i, total = 0, limit = self.offsets.shape[0] - 1
        cdef Py_ssize_t *numbers = <Py_ssize_t *>malloc((n + 1) * sizeof(Py_ssize_t))
        cdef char *out
        cdef const char *data = PyBytes_AS_STRING(self.data)
        if numbers == NULL:
            raise MemoryError
        try:
            for i in range(n):
                numbers[i] = checked(ids[i], i, limit)
                total += self.offsets[numbers[i] + 1] - self.offsets[numbers[i]]
            result = PyBytes_FromStringAndSize(NULL, total)
            out = PyBytes_AS_STRING(result)
            for i in range(n):
                total = self.offsets[numbers[i] + 1] - self.offsets[numbers[i]]
                memcpy(out, data + self.offsets[numbers[i]], total)
                out += total
        finally:
            free(numbers)
        return result


cdef Py_ssize_t checked(object token, Py_ssize_t position, Py_ssize_t limit) except -1:
    cdef int overflow = 0
    cdef long value
    if not PyLong_CheckExact(token):
        if PyBool_Check(token):
            raise TokenError(f"token {position}: expected an integer, got {token!r}")
        try:
            token = as_index(token)
        except TypeError:
            raise TokenError(f"token {position}: expected an integer, got {token!r}") from None
    value = PyLong_AsLongAndOverflow(token, &overflow)
    if overflow or value < 0 or value >= limit:
        raise TokenError(f"token {position}: expected an id from 0 to {limit - 1}, got {token}")
    return value
