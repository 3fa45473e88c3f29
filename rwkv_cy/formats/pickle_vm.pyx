"""A pickle interpreter that cannot run code: a few opcodes, an allow-list of globals, and limits on everything else.

Python's own unpickler imports and calls whatever a file names. This one never imports, never calls anything but the
functions it was given, never hashes anything but plain values, and never copies what it holds, so that its time and
memory are bounded by the number of opcodes. Opcodes: Python's Lib/pickletools.py.

The pickle of a large checkpoint has 70,000 opcodes: compiled, they take a tenth of the time.
"""

import struct

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.list cimport PyList_GetSlice
from cpython.object cimport PyObject
from libc.string cimport memchr

from rwkv_cy.errors import FormatError, UnsupportedError

cdef extern from "Python.h":
    int cut_list "PyList_SetSlice"(list items, Py_ssize_t begin, Py_ssize_t end, PyObject *nothing) except -1


__all__ = [
    "MAX_MARKS",
    "MAX_MEMO",
    "MAX_OPERATIONS",
    "MAX_PICKLE_BYTES",
    "MAX_STACK",
    "MAX_TEXT_BYTES",
    "ByteStream",
    "Global",
    "Ignored",
    "unpickle",
]

#: About 50 opcodes describe a tensor, and the largest checkpoints have 2,000.
MAX_OPERATIONS = 2_000_000
MAX_STACK = 200_000
MAX_MARKS = 100
MAX_MEMO = 1_000_000
#: Longest pickle; that of a large checkpoint takes 1 MB.
MAX_PICKLE_BYTES = 16 << 20
#: Longest string or run of bytes in a pickle.
MAX_TEXT_BYTES = 1 << 20
cdef Py_ssize_t _MAX_GLOBAL_BYTES = 200
cdef Py_ssize_t _CHUNK = 1 << 16

#: Types of keys that take bounded time to hash.
_PLAIN_KEYS = (str, int, float, bool, bytes, type(None))
#: Types that cannot be keys.
_NO_KEYS = (list, dict)


cdef class Global:
    """A global that a pickle may use; calling it calls `function` with the tuple of arguments.

    Without a function it may be referenced, but not called.
    """

    cdef readonly str name
    cdef readonly object function

    def __init__(self, str name, function=None):
        self.name = name
        self.function = function


cdef class Ignored:
    """A value on which no tensor depends, and of which nothing but its kind is known; equal to itself only."""

    cdef readonly str kind

    def __init__(self, str kind):
        self.kind = kind

    def __repr__(self):
        return f"Ignored(kind={self.kind!r})"


cdef class ByteStream:
    """Bytes `start` to `end` of a file, read one after another through a small buffer.

    Parameters
    ----------
    where : object
        The file's name, for messages.
    read_at : callable
        Returns the bytes at (offset, size).
    start, end : int
        The part of the file that may be read.
    """

    cdef readonly object where
    cdef readonly Py_ssize_t position, end
    cdef object _read_at
    cdef bytes _chunk
    cdef Py_ssize_t _chunk_start

    def __init__(self, where, read_at, Py_ssize_t start, Py_ssize_t end):
        self.where = where
        self.position = start
        self.end = end
        self._read_at = read_at
        self._chunk = b""
        self._chunk_start = start

    cdef const unsigned char *advance(self, Py_ssize_t size) except NULL:
        """Return the next `size` bytes, valid until the next call; raise FormatError if fewer are left."""
        cdef Py_ssize_t begin = self.position - self._chunk_start, left = self.end - self.position
        if begin + size > len(self._chunk):
            if size > left:
                raise FormatError(
                    f"{self.where}: pickle at byte {self.position}: expected {size} more bytes, got {left}; "
                    "the file is cut short or damaged: download or copy it again"
                )
            self._chunk = self._read_at(self.position, min(max(size, _CHUNK), left))
            if len(self._chunk) < size:
                raise FormatError(
                    f"{self.where}: pickle at byte {self.position}: expected {size} more bytes, got {len(self._chunk)}"
                )
            self._chunk_start = self.position
            begin = 0
        self.position += size
        return <const unsigned char *> PyBytes_AsString(self._chunk) + begin

    def take(self, Py_ssize_t size):
        """Return the next `size` bytes; raise FormatError if fewer are left."""
        if size < 0:
            raise ValueError(f"expected a number of bytes, got {size}")
        return self.next_bytes(size)

    cdef bytes next_bytes(self, Py_ssize_t size):
        cdef const unsigned char *start = self.advance(size)
        return PyBytes_FromStringAndSize(<const char *> start, size)

    cdef bytes line(self, Py_ssize_t limit):
        """Return the bytes before the next newline and skip it; raise FormatError if it is not within `limit`."""
        cdef Py_ssize_t begin = self.position - self._chunk_start
        cdef const char *start = PyBytes_AsString(self._chunk) + begin
        cdef const char *end = <const char *> memchr(start, b"\n", min(limit + 1, len(self._chunk) - begin))
        if end != NULL:
            self.position += end + 1 - start
            return PyBytes_FromStringAndSize(start, end - start)
        found = bytearray()  # across the end of the chunk
        cdef int byte
        while True:
            byte = self.advance(1)[0]
            if byte == 10:
                return bytes(found)
            found.append(byte)
            if len(found) > limit:
                raise FormatError(
                    f"{self.where}: pickle at byte {self.position}: expected a name of at most {limit} bytes, got more"
                )


def unpickle(ByteStream stream not None, allowed, persistent=None):
    """Return the object of the pickle at the stream's position, and advance the stream to its end.

    Parameters
    ----------
    stream : ByteStream
        Position of the pickle; protocols 2 to 5.
    allowed : mapping of str to Global
        Allowed globals, by ``"module.name"``.
    persistent : callable, optional
        Resolves persistent ids.

    Returns
    -------
    object
        Made of None, bool, int, float, str, bytes, tuple, list, dict (keys: plain values, and Ignored for tuples and
        objects), Global, Ignored, and what the functions of `allowed` and `persistent` return. It may share parts with
        itself, or contain itself: walk it to a fixed depth only, and neither print, compare nor hash it.

    Raises
    ------
    UnsupportedError
        If the pickle names a global that is not allowed.
    FormatError
        If it is damaged, uses an opcode that tensors do not need, or exceeds a limit of this module.
    """
    return _Machine(stream, allowed, persistent).run()


cdef inline int cut(list items, Py_ssize_t height) except -1:
    """Remove the items from an index on; ``del items[height:]`` would make a slice object each time."""
    return cut_list(items, height, len(items), NULL)


cdef class _Machine:
    cdef ByteStream stream
    cdef object persistent
    cdef list stack, marks
    cdef dict allowed, memo
    cdef Py_ssize_t operation_start
    #: Height of the stack at the last mark: objects below it are not accessible.
    cdef Py_ssize_t bottom
    cdef Py_ssize_t max_text, max_marks, max_memo

    def __init__(self, ByteStream stream, allowed, persistent):
        self.stream = stream
        self.allowed = dict(allowed)
        self.persistent = persistent
        self.stack = []
        self.marks = []
        self.memo = {}
        self.operation_start = stream.position
        self.bottom = 0
        self.max_text, self.max_marks, self.max_memo = MAX_TEXT_BYTES, MAX_MARKS, MAX_MEMO

    cdef object run(self):
        cdef ByteStream stream = self.stream
        cdef Py_ssize_t max_stack = MAX_STACK, left = MAX_OPERATIONS
        head = stream.next_bytes(2)
        if head[0] != 0x80 or not 2 <= head[1] <= 5:
            self.refuse(f"expected a pickle of protocol 2 to 5, got bytes {head.hex()}")
        cdef int code
        while True:
            if left == 0:
                self.refuse(f"expected at most {MAX_OPERATIONS} opcodes, got more")
            left -= 1
            self.operation_start = stream.position
            code = stream.advance(1)[0]
            if code == c".":
                break
            self.execute(code)
            if len(self.stack) > max_stack:
                self.refuse(f"expected a stack of at most {max_stack}, got more")
        if self.marks or len(self.stack) != 1:
            self.refuse(f"expected one object at its end, got {len(self.stack)} and {len(self.marks)} open marks")
        return self.stack[0]

    cdef int execute(self, int code) except -1:
        cdef list stack = self.stack
        if code == c"(":
            self.mark()
        elif code == c"N":
            stack.append(None)
        elif code == 0x88:
            stack.append(True)
        elif code == 0x89:
            stack.append(False)
        elif code == c"K":
            stack.append(self.number(1))
        elif code == c"M":
            stack.append(self.number(2))
        elif code == c"J":
            stack.append(<int> <unsigned int> self.number(4))
        elif code == 0x8A:
            stack.append(int.from_bytes(self.stream.next_bytes(<Py_ssize_t> self.number(1)), "little", signed=True))
        elif code == c"G":
            stack.append(struct.unpack(">d", self.stream.next_bytes(8))[0])
        elif code == c"U" or code == 0x8C:  # the former of Python 2, as are texts without an encoding
            stack.append(self.decode(self.text_bytes(1)))
        elif code == c"X":
            stack.append(self.decode(self.text_bytes(4)))
        elif code == 0x8D:
            stack.append(self.decode(self.text_bytes(8)))
        elif code == c"C":
            stack.append(self.text_bytes(1))
        elif code == c"B":
            stack.append(self.text_bytes(4))
        elif code == 0x8E or code == 0x96:
            stack.append(self.text_bytes(8))
        elif code == c")":
            stack.append(())
        elif code == 0x85:
            self.make_tuple(1)
        elif code == 0x86:
            self.make_tuple(2)
        elif code == 0x87:
            self.make_tuple(3)
        elif code == c"t":
            stack.append(tuple(self.pop_to_mark()))
        elif code == c"]":
            stack.append([])
        elif code == c"a":
            self.append([self.pop()])
        elif code == c"e":
            self.append(self.pop_to_mark())
        elif code == c"}":
            stack.append({})
        elif code == c"s":
            self.set_item()
        elif code == c"u":
            self.put_pairs(self.pop_to_mark())
        elif code == c"q":
            self.put(self.number(1))
        elif code == c"r":
            self.put(self.number(4))
        elif code == 0x94:
            self.put(len(self.memo))
        elif code == c"h":
            self.get(self.number(1))
        elif code == c"j":
            self.get(self.number(4))
        elif code == c"c":
            module = self.decode(self.stream.line(_MAX_GLOBAL_BYTES))
            self.find(module, self.decode(self.stream.line(_MAX_GLOBAL_BYTES)))
        elif code == 0x93:
            self.name_from_stack()
        elif code == 0x8F:
            stack.append(Ignored("set"))
        elif code == 0x90:
            self.add_items()
        elif code == 0x91:
            self.pop_to_mark()
            stack.append(Ignored("frozenset"))
        elif code == 0x81 or code == c"R":
            self.call()
        elif code == c"b":
            self.build()
        elif code == c"Q":
            self.resolve()
        elif code == 0x95:
            self.stream.advance(8)  # A frame's length: an aid to readers from pipes.
        else:
            self.refuse(f"expected an opcode that tensors need, got {code:#04x}")
        return 0

    cdef int refuse(self, problem) except -1:
        raise FormatError(
            f"{self.stream.where}: pickle at byte {self.operation_start}: {problem}; "
            "the file is damaged or not a checkpoint of tensors"
        )

    # The stack

    cdef int need_object(self) except -1:
        if len(self.stack) <= self.bottom:
            self.refuse("expected an object on the stack, got none")
        return 0

    cdef object pop(self):
        self.need_object()
        cdef Py_ssize_t height = len(self.stack) - 1
        item = self.stack[height]
        cut(self.stack, height)
        return item

    cdef object top(self):
        self.need_object()
        return self.stack[len(self.stack) - 1]

    cdef list pop_to_mark(self):
        if not self.marks:
            self.refuse("expected a mark on the stack, got none")
        cdef Py_ssize_t last = len(self.marks) - 1, height = self.bottom
        cut(self.marks, last)
        self.bottom = self.marks[last - 1] if last else 0
        cdef list items = PyList_GetSlice(self.stack, height, len(self.stack))
        cut(self.stack, height)
        return items

    cdef int mark(self) except -1:
        if len(self.marks) >= self.max_marks:
            self.refuse(f"expected at most {self.max_marks} marks within each other, got more")
        self.bottom = len(self.stack)
        self.marks.append(self.bottom)
        return 0

    # Arguments in the stream

    cdef unsigned long long number(self, int size) except? 0xFFFFFFFFFFFFFFFF:
        """Read a little-endian number of so many bytes."""
        cdef const unsigned char *data = self.stream.advance(size)
        cdef unsigned long long value = 0
        cdef int at
        for at in range(size):
            value |= <unsigned long long> data[at] << 8 * at
        return value

    cdef bytes text_bytes(self, int size_of_length):
        cdef unsigned long long size = self.number(size_of_length)
        if size > <unsigned long long> self.max_text:
            self.refuse(f"expected text of at most {self.max_text} bytes, got {size}")
        return self.stream.next_bytes(<Py_ssize_t> size)

    cdef str decode(self, bytes raw):
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.refuse(f"expected text in UTF-8, got {raw[:40]!r}")

    # Containers

    cdef int make_tuple(self, Py_ssize_t size) except -1:
        cdef Py_ssize_t height = len(self.stack) - size
        if height < self.bottom:
            self.refuse("expected an object on the stack, got none")
        items = tuple(PyList_GetSlice(self.stack, height, height + size))
        cut(self.stack, height)
        self.stack.append(items)
        return 0

    cdef int append(self, list items) except -1:
        target = self.top()
        if type(target) is not list:
            self.refuse(f"expected a list to append to, got {type(target).__name__}")
        (<list> target).extend(items)
        return 0

    cdef int set_item(self) except -1:
        value = self.pop()
        key = self.pop()
        return self.put_pairs([key, value])

    cdef int put_pairs(self, list items) except -1:
        target = self.top()
        cdef Py_ssize_t at
        if type(target) is not dict or len(items) % 2:
            self.refuse(f"expected pairs for a dictionary, got {len(items)} objects for {type(target).__name__}")
        for at in range(0, len(items), 2):
            name, value = items[at], items[at + 1]
            if type(name) in _NO_KEYS:
                self.refuse(f"expected keys of a dictionary, got a {type(name).__name__}")
            # Hashing a tuple hashes all its items: with shared items, in exponential time.
            key = name if type(name) in _PLAIN_KEYS else Ignored(type(name).__name__)
            if key in <dict> target:
                self.refuse(f"expected each key once, got {str(key)[:40]!r} twice")
            (<dict> target)[key] = value
        return 0

    cdef int add_items(self) except -1:
        self.pop_to_mark()
        target = self.top()
        if type(target) is not Ignored:
            self.refuse(f"expected a set to add to, got {type(target).__name__}")
        return 0

    # The memo

    cdef int put(self, unsigned long long index) except -1:
        if index >= <unsigned long long> self.max_memo:
            self.refuse(f"expected a memo index below {self.max_memo}, got {index}")
        self.memo[index] = self.top()
        return 0

    cdef int get(self, unsigned long long index) except -1:
        key = index
        if key not in self.memo:
            self.refuse(f"expected a memo index that was set before, got {index}")
        self.stack.append(self.memo[key])
        return 0

    # Names, calls, states

    cdef int find(self, str module, str name) except -1:
        full = module + "." + name
        found = self.allowed.get(full)
        if found is None:
            raise UnsupportedError(
                f"{self.stream.where}: pickle at byte {self.operation_start}: expected only what tensors need, got the "
                f"name {full[:100]!r}, which is never run; "
                "save the weights alone, as torch.save(model.state_dict(), path) does"
            )
        self.stack.append(found)
        return 0

    cdef int name_from_stack(self) except -1:
        name = self.pop()
        module = self.pop()
        if type(name) is not str or type(module) is not str:
            self.refuse(f"expected a name as text, got {type(module).__name__} and {type(name).__name__}")
        return self.find((<str> module)[:_MAX_GLOBAL_BYTES], (<str> name)[:_MAX_GLOBAL_BYTES])

    cdef int call(self) except -1:
        arguments = self.pop()
        function = self.pop()
        if type(function) is not Global or (<Global> function).function is None or type(arguments) is not tuple:
            shown = (<Global> function).name if type(function) is Global else type(function).__name__
            self.refuse(f"expected a function and its arguments, got {shown} and {type(arguments).__name__}")
        self.stack.append((<Global> function).function(arguments))
        return 0

    cdef int build(self) except -1:
        state = self.pop()
        target = self.top()
        # The attributes of an OrderedDict, as the _metadata that torch gives it, do not affect the tensors.
        if type(target) not in (dict, Ignored) or type(state) is not dict:
            self.refuse(
                "expected no state but the attributes of a dictionary, "
                f"got {type(state).__name__} for {type(target).__name__}"
            )
        return 0

    cdef int resolve(self) except -1:
        identity = self.pop()
        if self.persistent is None:
            self.refuse("expected no persistent id here, got one")
        self.stack.append(self.persistent(identity))
        return 0
