"""Types of the compiled module rwkv_cy.formats.zip_entries."""

from collections.abc import Sequence
from typing import Final

from rwkv_cy.errors import FormatError
from rwkv_cy.files.reading import FileBytes
from rwkv_cy.formats.inflated import InflatedBytes

DEFLATED: int
LOCAL_HEADER_BYTES: int

class ZipEntry:
    name: Final[str]
    raw_name: Final[bytes]
    flags: Final[int]
    method: Final[int]
    crc: Final[int]
    size: Final[int]
    stored_size: Final[int]
    header_offset: Final[int]
    limit: int
    checked: bool

class Place:
    offset: Final[int]
    size: Final[int]
    data: Final[InflatedBytes | None]
    crc32: Final[int | None]
    def __init__(
        self, offset: int, data: InflatedBytes | None = None, size: int = 0, crc32: int | None = None
    ) -> None: ...

def damaged(file: FileBytes, expected: str, got: str) -> FormatError: ...
def parse_entries(file: FileBytes, data: bytes, count: int, end: int) -> dict[str, ZipEntry]: ...
def locate_all(file: FileBytes, entries: Sequence[ZipEntry]) -> list[Place]: ...
