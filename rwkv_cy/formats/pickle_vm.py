"""A pickle interpreter that cannot run code: a few opcodes, an allow-list of globals, and limits on everything else.

Python's own unpickler imports and calls whatever a file names. This one never imports, never calls anything but the
functions it was given, never hashes anything but plain values, and never copies what it holds, so that its time and
memory are bounded by the number of opcodes. Opcodes: Python's Lib/pickletools.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from rwkv_cy.errors import FormatError, UnsupportedError

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
_MAX_GLOBAL_BYTES = 200
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Global:
    """A global that a pickle may use; calling it calls `function` with the tuple of arguments.

    Without a function it may be referenced, but not called.
    """

    name: str
    function: Callable[[tuple[Any, ...]], object] | None = None


@dataclass(frozen=True, eq=False)
class Ignored:
    """A value on which no tensor depends, and of which nothing but its kind is known; equal to itself only."""

    kind: str


#: Types of keys that take bounded time to hash.
_PLAIN_KEYS = (str, int, float, bool, bytes, type(None))
#: Types that cannot be keys.
_NO_KEYS = (list, dict)


class ByteStream:
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

    def __init__(self, where: object, read_at: Callable[[int, int], bytes], start: int, end: int) -> None:
        self.where = where
        self.position = start
        self.end = end
        self._read_at = read_at
        self._chunk = b""
        self._chunk_start = start

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes; raise FormatError if fewer are left."""
        begin = self.position - self._chunk_start
        if begin + size > len(self._chunk):
            left = self.end - self.position
            if size > left:
                raise FormatError(
                    f"{self.where}: pickle at byte {self.position}: expected {size} more bytes, got {left}; "
                    "the file is cut short or damaged: download or copy it again"
                )
            self._chunk = self._read_at(self.position, min(max(size, _CHUNK), left))
            self._chunk_start = self.position
            begin = 0
        self.position += size
        return self._chunk[begin : begin + size]

    def line(self, limit: int) -> bytes:
        """Return the bytes before the next newline and skip it; raise FormatError if it is not within `limit`."""
        begin = self.position - self._chunk_start
        end = self._chunk.find(b"\n", begin, begin + limit + 1)
        if end >= 0:
            self.position += end + 1 - begin
            return self._chunk[begin:end]
        found = bytearray()  # across the end of the chunk
        while (byte := self.take(1)) != b"\n":
            found += byte
            if len(found) > limit:
                raise FormatError(
                    f"{self.where}: pickle at byte {self.position}: expected a name of at most {limit} bytes, got more"
                )
        return bytes(found)


def unpickle(
    stream: ByteStream,
    allowed: Mapping[str, Global],
    persistent: Callable[[object], object] | None = None,
) -> object:
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


class _Machine:
    def __init__(
        self,
        stream: ByteStream,
        allowed: Mapping[str, Global],
        persistent: Callable[[object], object] | None,
    ) -> None:
        self.stream = stream
        self.allowed = allowed
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.operation_start = stream.position

    def run(self) -> object:
        stream = self.stream
        head = stream.take(2)
        if head[0] != 0x80 or not 2 <= head[1] <= 5:
            self.refuse(f"expected a pickle of protocol 2 to 5, got bytes {head.hex()}")
        for _ in range(MAX_OPERATIONS):
            self.operation_start = stream.position
            code = stream.take(1)[0]
            if code == _STOP:
                break
            operation = _OPERATIONS.get(code)
            if operation is None:
                self.refuse(f"expected an opcode that tensors need, got {code:#04x}")
            operation(self)
            if len(self.stack) > MAX_STACK:
                self.refuse(f"expected a stack of at most {MAX_STACK}, got more")
        else:
            self.refuse(f"expected at most {MAX_OPERATIONS} opcodes, got more")
        if self.marks or len(self.stack) != 1:
            self.refuse(f"expected one object at its end, got {len(self.stack)} and {len(self.marks)} open marks")
        return self.stack[0]

    def refuse(self, problem: str) -> NoReturn:
        raise FormatError(
            f"{self.stream.where}: pickle at byte {self.operation_start}: {problem}; "
            "the file is damaged or not a checkpoint of tensors"
        )

    # The stack. Objects below the last mark are not accessible.

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.refuse("expected an object on the stack, got none")
        return self.stack.pop()

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.refuse("expected an object on the stack, got none")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            self.refuse("expected a mark on the stack, got none")
        height = self.marks.pop()
        items = self.stack[height:]
        del self.stack[height:]
        return items

    def mark(self) -> None:
        if len(self.marks) >= MAX_MARKS:
            self.refuse(f"expected at most {MAX_MARKS} marks within each other, got more")
        self.marks.append(len(self.stack))

    # Arguments in the stream

    def integer(self, layout: str) -> int:
        value = struct.unpack(layout, self.stream.take(struct.calcsize(layout)))[0]
        return int(value)

    def text_bytes(self, layout: str) -> bytes:
        size = self.integer(layout)
        if size > MAX_TEXT_BYTES:
            self.refuse(f"expected text of at most {MAX_TEXT_BYTES} bytes, got {size}")
        return self.stream.take(size)

    def text(self, layout: str) -> None:
        self.stack.append(self.decode(self.text_bytes(layout)))

    def decode(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.refuse(f"expected text in UTF-8, got {raw[:40]!r}")

    def long(self) -> None:
        self.stack.append(int.from_bytes(self.stream.take(self.integer("<B")), "little", signed=True))

    # Containers

    def make_tuple(self, size: int) -> None:
        items = [self.pop() for _ in range(size)]
        self.stack.append(tuple(reversed(items)))

    def append(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            self.refuse(f"expected a list to append to, got {type(target).__name__}")
        target.extend(items)

    def set_item(self) -> None:
        value = self.pop()
        key = self.pop()
        self.set_items([key, value])

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not dict or len(items) % 2:
            self.refuse(f"expected pairs for a dictionary, got {len(items)} objects for {type(target).__name__}")
        for name, value in zip(items[::2], items[1::2], strict=True):
            if type(name) in _NO_KEYS:
                self.refuse(f"expected keys of a dictionary, got a {type(name).__name__}")
            # Hashing a tuple hashes all its items: with shared items, in exponential time.
            key = name if type(name) in _PLAIN_KEYS else Ignored(type(name).__name__)
            if key in target:
                self.refuse(f"expected each key once, got {str(key)[:40]!r} twice")
            target[key] = value

    def add_items(self) -> None:
        self.pop_to_mark()
        if type(self.top()) is not Ignored:
            self.refuse(f"expected a set to add to, got {type(self.top()).__name__}")

    def frozen_set(self) -> None:
        self.pop_to_mark()
        self.stack.append(Ignored("frozenset"))

    # The memo

    def put(self, index: int) -> None:
        if index >= MAX_MEMO:
            self.refuse(f"expected a memo index below {MAX_MEMO}, got {index}")
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            self.refuse(f"expected a memo index that was set before, got {index}")
        self.stack.append(self.memo[index])

    # Names, calls, states

    def find(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        found = self.allowed.get(full)
        if found is None:
            raise UnsupportedError(
                f"{self.stream.where}: pickle at byte {self.operation_start}: expected only what tensors need, got the "
                f"name {full[:100]!r}, which is never run; "
                "save the weights alone, as torch.save(model.state_dict(), path) does"
            )
        self.stack.append(found)

    def name_from_stream(self) -> None:
        module = self.decode(self.stream.line(_MAX_GLOBAL_BYTES))
        self.find(module, self.decode(self.stream.line(_MAX_GLOBAL_BYTES)))

    def name_from_stack(self) -> None:
        name = self.pop()
        module = self.pop()
        if type(name) is not str or type(module) is not str:
            self.refuse(f"expected a name as text, got {type(module).__name__} and {type(name).__name__}")
        self.find(module[:_MAX_GLOBAL_BYTES], name[:_MAX_GLOBAL_BYTES])

    def call(self) -> None:
        arguments = self.pop()
        function = self.pop()
        if type(function) is not Global or function.function is None or type(arguments) is not tuple:
            shown = function.name if type(function) is Global else type(function).__name__
            self.refuse(f"expected a function and its arguments, got {shown} and {type(arguments).__name__}")
        self.stack.append(function.function(arguments))

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        # The attributes of an OrderedDict, as the _metadata that torch gives it, do not affect the tensors.
        if type(target) not in (dict, Ignored) or type(state) is not dict:
            self.refuse(
                "expected no state but the attributes of a dictionary, "
                f"got {type(state).__name__} for {type(target).__name__}"
            )

    def resolve(self) -> None:
        identity = self.pop()
        if self.persistent is None:
            self.refuse("expected no persistent id here, got one")
        self.stack.append(self.persistent(identity))


_STOP = ord(".")

_OPERATIONS: dict[int, Callable[[_Machine], object]] = {
    ord("("): _Machine.mark,
    ord("N"): lambda m: m.stack.append(None),
    0x88: lambda m: m.stack.append(True),
    0x89: lambda m: m.stack.append(False),
    ord("K"): lambda m: m.stack.append(m.integer("<B")),
    ord("M"): lambda m: m.stack.append(m.integer("<H")),
    ord("J"): lambda m: m.stack.append(m.integer("<i")),
    0x8A: _Machine.long,
    ord("G"): lambda m: m.stack.append(struct.unpack(">d", m.stream.take(8))[0]),
    ord("U"): lambda m: m.text("<B"),  # of Python 2, as are texts without an encoding
    0x8C: lambda m: m.text("<B"),
    ord("X"): lambda m: m.text("<I"),
    0x8D: lambda m: m.text("<Q"),
    ord("C"): lambda m: m.stack.append(m.text_bytes("<B")),
    ord("B"): lambda m: m.stack.append(m.text_bytes("<I")),
    0x8E: lambda m: m.stack.append(m.text_bytes("<Q")),
    ord(")"): lambda m: m.stack.append(()),
    0x85: lambda m: m.make_tuple(1),
    0x86: lambda m: m.make_tuple(2),
    0x87: lambda m: m.make_tuple(3),
    ord("t"): lambda m: m.stack.append(tuple(m.pop_to_mark())),
    ord("]"): lambda m: m.stack.append([]),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.pop_to_mark()),
    ord("}"): lambda m: m.stack.append({}),
    ord("s"): _Machine.set_item,
    ord("u"): lambda m: m.set_items(m.pop_to_mark()),
    ord("q"): lambda m: m.put(m.integer("<B")),
    ord("r"): lambda m: m.put(m.integer("<I")),
    0x94: lambda m: m.put(len(m.memo)),
    ord("h"): lambda m: m.get(m.integer("<B")),
    ord("j"): lambda m: m.get(m.integer("<I")),
    ord("c"): _Machine.name_from_stream,
    0x93: _Machine.name_from_stack,
    0x8F: lambda m: m.stack.append(Ignored("set")),
    0x90: _Machine.add_items,
    0x91: _Machine.frozen_set,
    0x96: lambda m: m.stack.append(m.text_bytes("<Q")),
    0x81: _Machine.call,
    ord("R"): _Machine.call,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.resolve,
    0x95: lambda m: m.stream.take(8),  # A frame's length: an aid to readers from pipes.
}
