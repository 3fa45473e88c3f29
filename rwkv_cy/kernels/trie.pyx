"""Longest match over bytes: a double-array trie of a vocabulary, and the way back from ids to bytes."""

cimport cython
from cpython.bool cimport PyBool_Check
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_New, PyList_SET_ITEM
from cpython.long cimport PyLong_CheckExact
from cpython.ref cimport Py_INCREF
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from operator import index as as_index

from numpy import bool_ as numpy_bool

from rwkv_cy.errors import KernelError, TokenError
from rwkv_cy.kernels.double_array cimport DONE, LABEL_BITS, LABEL_MASK, TWINS, Unit, build_units

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    long PyLong_AsLongAndOverflow(object number, int *overflow) except? -1

#: Ids must be below this.
MAX_IDS = (1 << (32 - LABEL_BITS)) - 1
#: Memory of one Python integer and its place in a list.
NUMBER_BYTES = 40
#: The bytes of all tokens together must be below this.
MAX_BYTES = 1 << 26


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

    def __cinit__(self, const int64_t[::1] offsets not None, bytes data not None):
        cdef Py_ssize_t ids = offsets.shape[0] - 1, i
        cdef Py_ssize_t total = len(data)
        cdef Py_ssize_t twins[2]
        cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef int outcome
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
        with nogil:
            outcome = build_units(&offsets[0], ids, text, &self.units, &self.size, &self.root_base, twins)
        if outcome == TWINS:
            raise KernelError(f"data: expected different tokens, got the same bytes for ids {twins[0]} and {twins[1]}")
        if outcome != DONE:
            raise MemoryError
        self.numbers = list(range(ids))

    def __dealloc__(self):
        free(self.units)

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
        if PyBool_Check(token) or isinstance(token, numpy_bool):
            raise TokenError(f"token {position}: expected an integer, got {token!r}")
        try:
            token = as_index(token)
        except TypeError:
            raise TokenError(f"token {position}: expected an integer, got {token!r}") from None
    value = PyLong_AsLongAndOverflow(token, &overflow)
    if overflow or value < 0 or value >= limit:
        raise TokenError(f"token {position}: expected an id from 0 to {limit - 1}, got {token}")
    return value
