"""Tokens by their ids and by their bytes: the longest one that begins at each place of a text.

A vocabulary as large as World's is ready in a millisecond, and a text is encoded without a Python object for each token
that is tried.
"""

import os

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from rwkv_cy.errors import TokenizerError

__all__ = ["MAX_TOKEN_BYTES", "TokenTable"]

cdef enum:
    LONGEST = 256
    PRIME = 0x7FFFFFFF  # 2^31 - 1

#: Longest token: each length that tokens have is tried at each place of a text.
MAX_TOKEN_BYTES = LONGEST

cdef struct Slot:
    uint32_t hash
    int id  # from 1; 0 where the slot is empty

#: Which lengths, and up to which, the tokens have that begin with a byte.
cdef struct Lengths:
    int longest
    uint8_t used[LONGEST + 1]


cdef class TokenTable:
    """Tokens of bytes, found by a hash whose collisions nobody can foresee.

    The hash of a token is a polynomial of its bytes at a random point modulo a prime, so that of two different tokens
    of at most 256 bytes one pair in eight million has the same, whatever the vocabulary.

    Parameters
    ----------
    lengths : uint16 [ids]
        Bytes of each token; an id of 0 bytes is not a token.
    data : bytes
        The bytes of all tokens, in the order of their ids.

    Raises
    ------
    TokenizerError
        If a token is longer than MAX_TOKEN_BYTES, or the lengths do not add up to the bytes.

    Attributes
    ----------
    data : bytes
    twice : tuple of (int, int) or None
        The first two ids that were found to have the same bytes.
    """

    cdef readonly bytes data
    cdef readonly object twice
    cdef const uint8_t *_bytes
    cdef uint32_t *_ends
    cdef Slot *_slots
    cdef Lengths *_lengths
    cdef Py_ssize_t _count, _mask
    cdef uint32_t _point

    def __cinit__(self, const uint16_t[::1] lengths, bytes data):
        cdef Py_ssize_t i, total = 0, slots = 512
        self._count = lengths.shape[0]
        for i in range(self._count):
            if lengths[i] > LONGEST:
                raise TokenizerError(f"tokens: expected at most {LONGEST} bytes each, got {lengths[i]} for id {i}")
            total += lengths[i]
        if total != len(data) or total > 0x7FFFFFFF:
            raise TokenizerError(f"tokens: expected {total} bytes in all, got {len(data)}")
        while slots < 2 * self._count:
            slots *= 2
        self.data, self._bytes, self._mask = data, <const uint8_t *>PyBytes_AsString(data), slots - 1
        self._point = 256 + int.from_bytes(os.urandom(4), "little") % (PRIME - 256)
        self._ends = <uint32_t *>PyMem_Malloc((self._count + 1) * sizeof(uint32_t))
        self._slots = <Slot *>PyMem_Calloc(slots, sizeof(Slot))
        self._lengths = <Lengths *>PyMem_Calloc(256, sizeof(Lengths))
        if self._ends == NULL or self._slots == NULL or self._lengths == NULL:
            raise MemoryError
        self._ends[0] = 0
        for i in range(self._count):
            self._ends[i + 1] = self._ends[i] + lengths[i]
            if lengths[i]:
                self._enter(i, lengths[i])

    def __dealloc__(self):
        PyMem_Free(self._ends)
        PyMem_Free(self._slots)
        PyMem_Free(self._lengths)

    def __len__(self):
        return self._count

    cdef void _enter(self, Py_ssize_t number, int length):
        cdef const uint8_t *token = self._bytes + self._ends[number]
        cdef Lengths *lengths = &self._lengths[token[0]]
        cdef uint32_t hash = 0
        cdef Py_ssize_t at
        cdef int i
        for i in range(length):
            hash = self._next(hash, token[i])
        at = hash & self._mask
        while self._slots[at].id:
            if self.twice is None and self._is(&self._slots[at], hash, token, length):
                self.twice = (self._slots[at].id - 1, number)
            at = (at + 1) & self._mask
        self._slots[at].hash, self._slots[at].id = hash, <int>number + 1
        lengths.used[length] = 1
        lengths.longest = max(lengths.longest, length)

    cdef inline uint32_t _next(self, uint32_t hash, uint8_t byte) noexcept nogil:
        # The hash of a token with one byte more.
        cdef uint64_t value = <uint64_t>hash * self._point + byte + 1
        value = (value & PRIME) + (value >> 31)
        return <uint32_t>(value - PRIME if value >= PRIME else value)

    cdef inline bint _is(self, const Slot *slot, uint32_t hash, const uint8_t *text, int length) noexcept nogil:
        cdef uint32_t start
        if slot.hash != hash:
            return False
        start = self._ends[slot.id - 1]
        return self._ends[slot.id] - start == <uint32_t>length and memcmp(self._bytes + start, text, length) == 0

    cdef int _longest(self, const uint8_t *text, Py_ssize_t size, int *length) noexcept nogil:
        # The id of the longest token that the text begins with, and its length; -1 if it begins with none.
        cdef const Lengths *lengths = &self._lengths[text[0]]
        cdef int end = <int>min(<Py_ssize_t>lengths.longest, size), tried, found = -1
        cdef uint32_t hash = 0
        cdef Py_ssize_t at
        for tried in range(1, end + 1):
            hash = self._next(hash, text[tried - 1])
            if not lengths.used[tried]:
                continue
            at = hash & self._mask
            while self._slots[at].id:
                if self._is(&self._slots[at], hash, text, tried):
                    found, length[0] = self._slots[at].id - 1, tried
                    break
                at = (at + 1) & self._mask
        return found

    def encode(self, bytes text):
        """Return the ids of the longest tokens, one after the other, and where they end.

        They end before the end of the text where it goes on with bytes that no token begins with.
        """
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AsString(text)
        cdef Py_ssize_t start = 0, size = len(text)
        cdef int number, length = 0
        cdef list ids = []
        while start < size:
            number = self._longest(data + start, size - start, &length)
            if number < 0:
                break
            ids.append(number)
            start += length
        return ids, start

    def token(self, Py_ssize_t number):
        """Return the bytes of an id; IndexError if there is not such an id."""
        if not 0 <= number < self._count:
            raise IndexError(f"expected an id from 0 to {self._count - 1}, got {number}")
        cdef uint32_t start = self._ends[number]
        return PyBytes_FromStringAndSize(<const char *>self._bytes + start, self._ends[number + 1] - start)

    def has_byte(self, int byte):
        """Tell whether that byte alone is a token."""
        return 0 <= byte < 256 and self._lengths[byte].used[1] != 0
