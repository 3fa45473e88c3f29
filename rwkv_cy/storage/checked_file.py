"""Files with a checksum footer, read without the HDF5 library.

Untrusted files are opened by this code alone: it reads 48 bytes of the superblock, the footer and the index, and
verifies the checksum of the structure that HDF5 would read.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkv_cy.dtypes import STORAGE_TYPES
from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.files.checksum import crc32
from rwkv_cy.files.reading import FileBytes
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.storage.footer import Footer
from rwkv_cy.storage.index import MAX_INDEX_BYTES, Entry, unpack_index
from rwkv_cy.storage.schema import (
    FOOTER_PATH,
    HEADER_PATH,
    INDEX_PATH,
    MAX_DATASETS,
    MAX_HEADER_BYTES,
    PAGE,
    DatasetSpec,
    Progress,
    parameter_name,
)
from rwkv_cy.storage.signature import SIGNATURE

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["CheckedFile"]

#: signature, version, size of offsets, size of lengths, consistency flags, base, extension, end of file, root group
_SUPERBLOCK = struct.Struct("<8sBBBBQQQQ")
#: HDF5's metadata takes about 500 bytes a dataset.
_MAX_METADATA_BYTES = 4096 * MAX_DATASETS
#: Messages about a file of another kind, by the kind that was expected and the kind that was found.
_OTHER_KINDS = {
    ("model", "state"): "is a state, not a model; use it with --state (load_state in Python)",
    ("state", "model"): "is a model, not a state; name a file that State.save or --save-state wrote",
}


class CheckedFile:
    """An open file, checked as far as possible without reading its data.

    Parameters
    ----------
    path : Path
        The file.
    kind : str or None
        The kind that is expected; None accepts every kind.

    Attributes
    ----------
    path, absolute : Path
    kind : str
    file : FileBytes
    footer : Footer
    entries : mapping of str to Entry
        The datasets by path, in the file's order, without the index and the footer.
    header : dict
        Content of the header dataset.

    Raises
    ------
    FormatError
        If the file is damaged, unfinished, of another kind, or not written by rwkv-cy.
    UnsupportedError
        If it has a newer major version.
    StorageError
        If the operating system refuses it.
    """

    entries: Mapping[str, Entry]

    def __init__(self, path: Path, kind: str | None) -> None:
        self.path = path
        self.absolute = path.absolute()
        self.file = FileBytes(path)
        try:
            self._check_superblock()
            self.footer = self._read_footer()
            self.check_metadata()
            index = self.file.read_at(self.footer.index_offset, self.footer.index_size)
            if crc32(index) != self.footer.index_crc:
                raise self._damaged("the index")
            found, self.entries = unpack_index(index, path, self.footer.metadata_size, self.footer.index_offset)
            self.kind = found
            if kind not in (None, found):
                other = _OTHER_KINDS.get((str(kind), found))
                raise UnsupportedError(
                    f"{path}: expected a file of kind {kind!r}, got {found[:40]!r}; name a file of that kind"
                    if other is None
                    else f"{path} {other}"
                )
            self.header = parse_object(path, "header", self.read_small(HEADER_PATH, MAX_HEADER_BYTES))
        except BaseException:
            self.file.close()
            raise

    def read_small(self, path: str, limit: int) -> bytes:
        """Return a dataset of bytes, after comparing its checksum.

        Raises
        ------
        FormatError
            If it does not exist, does not contain bytes, is larger than `limit`, or is damaged.
        """
        entry = self.entries.get(path)
        if entry is None or entry.spec.dtype != "u8" or entry.spec.nbytes > limit:
            raise FormatError(
                f"{self.path}: expected at most {limit} bytes in {path}, got "
                + ("no such dataset" if entry is None else f"{entry.spec.nbytes} of type {entry.spec.dtype}")
                + "; convert or save it again"
            )
        raw = self.file.read_at(entry.offset, entry.spec.nbytes)
        if crc32(raw) != entry.crc32:
            raise self._damaged(path)
        return raw

    def datasets(self) -> list[tuple[DatasetSpec, int]]:
        """Return every dataset of the file and its offset, including the index and the footer."""
        return [
            *((entry.spec, entry.offset) for entry in self.entries.values()),
            (DatasetSpec(INDEX_PATH, "u8", (self.footer.index_size,)), self.footer.index_offset),
            (DatasetSpec(FOOTER_PATH, "u8", (PAGE,)), self.footer.file_size - PAGE),
        ]

    def read_array(self, entry: Entry) -> npt.NDArray[Any]:
        """Return a dataset as a new array; raise FormatError if its checksum differs."""
        array = np.empty(entry.spec.shape, STORAGE_TYPES[entry.spec.dtype].array_dtype)
        self.file.read_into_at(entry.offset, array)
        if crc32(array.data) != entry.crc32:
            raise self._damaged(entry.spec.path)
        return array

    def check_bytes(self, entry: Entry, progress: Progress | None = None) -> None:
        """Read the bytes of a dataset; FormatError if they are not those that were written.

        `progress` is called with the bytes of each block.
        """
        if self.file.crc32(entry.offset, entry.spec.nbytes, progress) != entry.crc32:
            raise self._damaged(parameter_name(entry.spec.path) or entry.spec.path)

    def check_metadata(self) -> None:
        """Raise FormatError if the checksum of HDF5's metadata differs from the footer."""
        if self.file.crc32(0, self.footer.metadata_size) != self.footer.metadata_crc:
            raise self._damaged("the HDF5 structure")

    def close(self) -> None:
        """Close the file; arrays over its map stay valid."""
        self.file.close()

    def __enter__(self) -> CheckedFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _damaged(self, what: str) -> FormatError:
        return FormatError(
            f"{self.path}: {what}: the checksum does not match: the file is damaged; copy it again or convert it again"
        )

    def _check_superblock(self) -> None:
        size = self.file.size
        start = self.file.read_at(0, min(size, _SUPERBLOCK.size))
        if start[:8] != SIGNATURE[: len(start)]:
            raise FormatError(f"{self.path}: expected an HDF5 file, got one that begins with {start[:8]!r}; convert it")
        if size < _SUPERBLOCK.size:
            raise self._cut(2 * PAGE)
        _, version, offsets, lengths, flags, base, _, end, _ = _SUPERBLOCK.unpack(start)
        # Files of other programs can be shorter than the shortest model file: they are of another kind, not truncated.
        if (version, offsets, lengths, base) != (3, 8, 8, 0) or end == size < 2 * PAGE:
            raise FormatError(
                f"{self.path}: expected a file of rwkv-cy, got an HDF5 file of another kind "
                f"(superblock version {version}); name a file that rwkv-cy wrote"
            )
        if flags != 0:
            raise FormatError(
                f"{self.path}: expected a closed file, got one that an HDF5 writer left open; convert or save it again"
            )
        if size < max(end, 2 * PAGE):
            raise self._cut(max(end, 2 * PAGE))
        if end < size:
            raise FormatError(
                f"{self.path}: expected {end} bytes, got {size}: data were appended after the end; copy it again"
            )

    def _cut(self, expected: int) -> FormatError:
        return FormatError(
            f"{self.path}: expected {expected} bytes or more, got {self.file.size}: it is truncated; copy it again"
        )

    def _read_footer(self) -> Footer:
        size = self.file.size
        footer = Footer.unpack(self.file.read_at(size - PAGE, PAGE), self.path)
        index_end = footer.index_offset + footer.index_size
        if (
            footer.file_size != size
            or not _SUPERBLOCK.size <= footer.metadata_size <= min(footer.index_offset, _MAX_METADATA_BYTES)
            or footer.index_size > MAX_INDEX_BYTES
            or index_end > size - PAGE
        ):
            raise FormatError(
                f"{self.path}: expected a footer that fits the file of {size} bytes, got one that does not; "
                "convert or save it again"
            )
        return footer
