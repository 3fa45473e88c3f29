"""Storages and tensors as a pickle of torch describes them, without their data, and where they are in the file.

A large checkpoint has thousands: compiled, they take a fraction of the time. What is unusual, and every error, takes
the way of the checks that all formats share.
"""

import math

from cpython.long cimport PyLong_AsLongLongAndOverflow

from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats.base import MAX_DIMENSIONS, MAX_ELEMENTS, MAX_TENSORS, check_shape
from rwkv_cy.formats.pickle_vm import Global
from rwkv_cy.formats.raw import RawTensor
from rwkv_cy.formats.strided import is_contiguous, span
from rwkv_cy.tensors.tensor import TensorInfo

__all__ = ["Storage", "Tensor", "TensorMaker", "Unusable", "checksums", "place_tensors"]

cdef long long _MOST = MAX_ELEMENTS
cdef Py_ssize_t _DIMENSIONS = MAX_DIMENSIONS


cdef class Storage:
    """A run of elements in the file, identified by its key."""

    cdef readonly str key
    cdef readonly object element
    cdef readonly object count
    cdef readonly object nbytes

    def __init__(self, str key not None, element, count):
        self.key = key
        self.element = element
        self.count = count
        self.nbytes = count * element.itemsize


cdef class Tensor:
    """A tensor over a storage, as the pickle describes it: only the types have been checked."""

    cdef readonly Storage storage
    cdef readonly object offset
    cdef readonly object shape
    cdef readonly object strides
    cdef readonly object element

    def __init__(self, Storage storage not None, offset, shape, strides, element):
        self.storage = storage
        self.offset = offset
        self.shape = shape
        self.strides = strides
        self.element = element

    @property
    def is_empty(self):
        """Whether it has no numbers."""
        # One tuple of very many items may be the shape of very many tensors: only what a shape may have is looked at.
        cdef Py_ssize_t axis
        for axis in range(min(<Py_ssize_t> len(self.shape), _DIMENSIONS)):
            size = self.shape[axis]
            if type(size) is int and size == 0:
                return True
        return False

    @property
    def left_out(self):
        """What the tensor is, where no model can have it."""
        if self.element.dtype is not None and not self.is_empty:
            return None
        known = len(self.shape) <= _DIMENSIONS and all(
            [type(size) is int and 0 <= size <= MAX_ELEMENTS for size in self.shape]
        )
        shape = f", shape {self.shape}" if known else ""
        return f"{'empty ' if self.is_empty else ''}{self.element.name}{shape}"


cdef class Unusable:
    """A tensor that is not an array of numbers in the file."""

    cdef readonly str left_out

    def __init__(self, str left_out not None):
        self.left_out = left_out

    def __eq__(self, other):
        return type(other) is Unusable and self.left_out == (<Unusable> other).left_out

    def __repr__(self):
        return f"Unusable(left_out={self.left_out!r})"


cdef class TensorMaker:
    """Makes storages and tensors of what a pickle says of them, and records the storages.

    Parameters
    ----------
    path : Path
        The file, for messages.
    types : dict of str to Element
        Types of the elements, by the names of storages.
    views : bool
        Whether persistent ids have a sixth part, for views of storages: in the legacy stream.
    """

    cdef readonly object path
    cdef readonly dict storages
    cdef dict _types
    cdef bint _views

    def __init__(self, path, dict types not None, bint views):
        self.path = path
        self.storages = {}
        self._types = types
        self._views = views

    def storage(self, identity):
        """Resolve a persistent id: ('storage', type, key, location, count), and None in the legacy stream."""
        cdef tuple parts = <tuple> identity if type(identity) is tuple else ()
        if self._views and len(parts) == 6:
            if parts[5] is not None:
                raise UnsupportedError(
                    f"{self.path}: expected whole storages, got a view of one, as torch before 0.4 wrote them; "
                    "load it with that torch and save it again"
                )
            parts = parts[:5]
        element = None
        if (
            len(parts) == 5
            and type(parts[0]) is str
            and type(parts[1]) is Global
            and type(parts[2]) is str
            and type(parts[3]) is str
            and type(parts[4]) is int
            and parts[0] == "storage"
        ):
            element = self._types.get(parts[1].name)
        if element is None or parts[4] < 0:
            raise self.damaged("the id of a storage", f"another {type(identity).__name__}")
        key, count = parts[2], parts[4]
        cdef Storage known = self.storages.get(key)
        if known is not None:
            if known.element is not element or known.count != count:
                raise self.damaged(
                    f"storage {key[:40]!r} as {known.count} of {known.element.name}",
                    f"it again as {count} of {element.name}",
                )
            return known
        if len(self.storages) >= MAX_TENSORS:
            raise self.damaged(f"at most {MAX_TENSORS} storages", "more")
        known = Storage(key, element, count)
        self.storages[key] = known
        return known

    def tensor(self, tuple arguments not None):
        """Make a tensor of: storage, offset, shape, strides, requires_grad, hooks, flags; the last may be missing."""
        if not (
            4 <= len(arguments) <= 7
            and type(arguments[0]) is Storage
            and type(arguments[1]) is int
            and type(arguments[2]) is tuple
            and type(arguments[3]) is tuple
        ):
            raise self.damaged("a storage, an offset, a shape and strides of a tensor", "other arguments")
        cdef Storage storage = arguments[0]
        cdef Tensor tensor = Tensor(storage, arguments[1], arguments[2], arguments[3], storage.element)
        return tensor if len(arguments) < 7 else self.flagged(tensor, arguments[6:])

    def flagged(self, Tensor tensor, tuple flags not None):
        """Return the tensor, unless its numbers are to be negated or conjugated when they are read."""
        if flags and flags[0] is not None and type(flags[0]) is not dict:
            raise self.damaged("the flags of a tensor", "another value")
        if flags and flags[0] and any([flags[0].get(flag) for flag in ("neg", "conj")]):
            return Unusable("a view that negates or conjugates its numbers")
        return tensor

    def damaged(self, expected, got):
        """Return the error of a damaged pickle."""
        return FormatError(f"{self.path}: expected {expected}, got {got}; the file is damaged: download it again")


def place_tensors(path, tensors, places):
    """Return the position of each tensor in the file.

    Parameters
    ----------
    path : Path
        The file, for messages.
    tensors : mapping of str to Tensor
        None of them left out.
    places : mapping of str to Place
        Of each storage, by key.

    Raises
    ------
    FormatError
        If a tensor has impossible strides, or exceeds its storage.
    """
    cdef dict placed = {}
    cdef Tensor tensor
    for name, item in tensors.items():
        tensor = item
        shape, strides = tensor.shape, None
        size = reach = _size_in_order(tensor.shape, tensor.strides)
        if size < 0:
            shape = check_shape(path, name, shape)
            strides = _check_strides(path, name, shape, tensor.strides)
            size = reach = math.prod(shape)
            if is_contiguous(shape, strides):
                strides = None
            else:
                reach = span(shape, strides)
        itemsize, end = tensor.element.itemsize, tensor.offset + reach
        if tensor.offset < 0 or end * itemsize > tensor.storage.nbytes:
            raise FormatError(
                f"{path}: {name}: expected elements within the {tensor.storage.nbytes // itemsize} of its storage, "
                f"got {tensor.offset} to {end}; the file is damaged: download it again"
            )
        nbytes = min(reach, size) * itemsize  # fewer where elements share their bytes
        dtype = tensor.element.dtype or ""
        place = places[tensor.storage.key]
        info = TensorInfo(name, shape, dtype, name, dtype, nbytes)
        placed[name] = RawTensor(info, place.offset + tensor.offset * itemsize, strides, place.data)
    return placed


def checksums(tensors, places):
    """Return the place of each tensor's storage by the tensor's name, of those that have a checksum."""
    cdef dict found = {}
    cdef Tensor tensor
    for name, item in tensors.items():
        tensor = item
        place = places[tensor.storage.key]
        if place.crc32 is not None:
            found[name] = place
    return found


cdef long long _size_in_order(object shape, object strides) except? -2:
    """Return the number of elements of a tensor in C order; -1 for any other order, and for impossible dimensions."""
    if type(shape) is not tuple or type(strides) is not tuple:
        return -1
    cdef tuple lengths = shape, steps = strides
    cdef Py_ssize_t axis = len(lengths)
    cdef long long size = 1, length
    cdef int overflow = 0
    if axis > _DIMENSIONS or len(steps) != axis:
        return -1
    while axis:
        axis -= 1
        if type(lengths[axis]) is not int or type(steps[axis]) is not int:
            return -1
        if PyLong_AsLongLongAndOverflow(steps[axis], &overflow) != size or overflow:
            return -1
        length = PyLong_AsLongLongAndOverflow(lengths[axis], &overflow)
        if overflow or not 1 <= length <= _MOST // size:
            return -1
        size *= length
    return size


def _check_strides(path, name, shape, strides):
    """Return the strides; FormatError unless there is one for each dimension, not negative and of a sane size."""
    if len(strides) == len(shape):
        for stride in strides:
            if type(stride) is not int or not 0 <= stride <= MAX_ELEMENTS:  # true and false are integers to isinstance
                break
        else:
            return strides
    shown = strides if len(strides) <= len(shape) and all([type(s) is int for s in strides]) else "others"
    raise FormatError(
        f"{path}: {name}: expected a stride from 0 to 2**48 for each dimension of shape {shape}, got {shown}; "
        "the file is damaged: download it again"
    )
