"""Types of the compiled module rwkv_cy.formats.pickle_vm."""

from collections.abc import Callable, Mapping
from typing import Any, Final

MAX_MARKS: int
MAX_MEMO: int
MAX_OPERATIONS: int
MAX_PICKLE_BYTES: int
MAX_STACK: int
MAX_TEXT_BYTES: int

class Global:
    name: Final[str]
    function: Final[Callable[[tuple[Any, ...]], object] | None]
    def __init__(self, name: str, function: Callable[[tuple[Any, ...]], object] | None = None) -> None: ...

class Ignored:
    kind: Final[str]
    def __init__(self, kind: str) -> None: ...

class ByteStream:
    where: Final[object]
    position: Final[int]
    end: Final[int]
    def __init__(self, where: object, read_at: Callable[[int, int], bytes], start: int, end: int) -> None: ...
    def take(self, size: int) -> bytes: ...

def unpickle(
    stream: ByteStream, allowed: Mapping[str, Global], persistent: Callable[[object], object] | None = None
) -> object: ...
