"""A model in several files, with an index that maps tensors to files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkv_cy.errors import FormatError
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.formats.base import MAX_HEADER_BYTES, MAX_TENSORS, FileBytes
from rwkv_cy.formats.prefixes import is_head
from rwkv_cy.tensors.tensor import Advance, ParameterSource, TensorInfo

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["MAX_SHARDS", "Shards", "files_by_tensor", "open_shards", "read_small"]

#: Each shard is an open file.
MAX_SHARDS = 256


class Shards:
    """A :class:`~rwkv_cy.tensors.tensor.ParameterSource` over the tensors of several others.

    Parameters
    ----------
    path : Path
        The index.
    homes : mapping of str to ParameterSource
        The open shard of each tensor. All are closed with this source.
    shards : sequence of ParameterSource, optional
        All shards in their order, where some may hold none of the tensors.
    """

    def __init__(
        self, path: Path, homes: Mapping[str, ParameterSource], shards: Sequence[ParameterSource] = ()
    ) -> None:
        self.path = path
        self._homes = {name: shard for name, shard in homes.items() if name not in shard.left_out}
        #: Each shard once, in their order.
        self._shards = tuple({id(shard): shard for shard in (*shards, *homes.values())}.values())
        self.format = self._shards[0].format
        self.metadata: Mapping[str, str] = {k: v for shard in reversed(self._shards) for k, v in shard.metadata.items()}
        self.left_out: Mapping[str, str] = {k: v for shard in self._shards for k, v in shard.left_out.items()}

    @property
    def files(self) -> tuple[FileIdentity, ...]:
        """Identities of the shards, ordered by name."""
        return tuple(sorted((file for shard in self._shards for file in shard.files), key=lambda file: file.path))

    def names(self) -> tuple[str, ...]:
        """Names, in the index's order."""
        return tuple(self._homes)

    def info(self, name: str) -> TensorInfo:
        """Describe the tensor `name`; KeyError if there is none."""
        return self._homes[name].info(name)

    def read_into(self, name: str, buffer: npt.NDArray[Any], start: int = 0) -> None:
        """Fill `buffer` with elements from `start`, in C order."""
        self._homes[name].read_into(name, buffer, start)

    def view(self, name: str) -> npt.NDArray[Any] | None:
        """Return the tensor as a read-only array over a memory map, or None if its shard has no view of it."""
        return self._homes[name].view(name)

    def check_bytes(self, name: str, advance: Advance | None = None) -> bool:
        """Compare the checksum of a tensor's bytes, where its shard has one."""
        return self._homes[name].check_bytes(name, advance)

    def checksum(self, name: str) -> int | None:
        """Return the CRC-32 of a tensor's bytes, where its shard has one."""
        return self._homes[name].checksum(name)

    def check(self) -> None:
        """Raise FormatError if a shard has been truncated since it was opened."""
        for shard in self._shards:
            shard.check()

    def close(self) -> None:
        """Close all shards. Arrays from :meth:`view` stay valid."""
        for shard in self._shards:
            shard.close()

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_small(path: Path) -> bytes:
    """Return the bytes of an index; raise FormatError if there are more than MAX_HEADER_BYTES."""
    with FileBytes(path) as file:
        if file.size > MAX_HEADER_BYTES:
            raise FormatError(
                f"{path}: expected at most {MAX_HEADER_BYTES} bytes, got {file.size}; it is not an index of a model"
            )
        return file.read_at(0, file.size)


def open_shards(path: Path, open_file: Callable[[Path], ParameterSource]) -> Shards:
    """Open the shards of a Hugging Face index (``model.safetensors.index.json``).

    Parameters
    ----------
    path : Path
        The index. Its ``weight_map`` names the file of each tensor, in the same folder.
    open_file : callable
        Opens one shard of any format.

    Raises
    ------
    FormatError
        If the index is damaged, names a file outside its folder, or differs from the content of the shards.
    """
    files = files_by_tensor(path)
    with ExitStack() as stack:
        shards = {file: stack.enter_context(open_file(path.parent / file)) for file in dict.fromkeys(files.values())}
        missing = _compare(path, files, shards)
        stack.pop_all()
    homes = {name: shards[file] for name, file in files.items() if name not in missing}
    return Shards(path, homes, tuple(shards.values()))


def files_by_tensor(path: Path) -> dict[str, str]:
    """Return the file name of each tensor in an index; FormatError if it is damaged, or names other folders."""
    weight_map = parse_object(path, "index", read_small(path)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{path}: expected a weight_map of tensors and their files, got none; the index is damaged")
    if len(weight_map) > MAX_TENSORS:
        raise FormatError(f"{path}: expected at most {MAX_TENSORS} tensors, got {len(weight_map)}")
    plain: set[str] = set()
    for file in weight_map.values():
        if isinstance(file, str) and file in plain:
            continue
        if not isinstance(file, str) or not _is_plain(file):
            raise FormatError(
                f"{path}: expected names of files in the same folder, got {str(file)[:80]!r}; "
                "the index is damaged, or tries to read other files"
            )
        plain.add(file)
    if len(plain) > MAX_SHARDS:
        raise FormatError(f"{path}: expected at most {MAX_SHARDS} files, got {len(plain)}; the index is damaged")
    return weight_map


def _is_plain(name: str) -> bool:
    return 0 < len(name) <= 255 and name.isprintable() and name not in (".", "..") and not {"/", "\\"} & set(name)


def _compare(path: Path, files: Mapping[str, str], shards: Mapping[str, ParameterSource]) -> set[str]:
    """Check that each shard holds exactly the tensors that the index lists for it.

    A listed head need not be there, since writers drop one that shares the embedding's matrix; it is returned.
    """
    dropped = set()
    listed: dict[str, set[str]] = {file: set() for file in shards}
    for name, file in files.items():
        listed[file].add(name)
    for file, shard in shards.items():
        held = {*shard.names(), *shard.left_out}
        missing, unlisted = sorted(listed[file] - held), sorted(held - listed[file])
        if unlisted or not all(map(is_head, missing)):
            raise FormatError(
                f"{path}: expected {file} to hold the {len(listed[file])} tensors that the index lists for it, got "
                f"{len(missing)} missing ({', '.join(missing[:3])}) and {len(unlisted)} others "
                f"({', '.join(unlisted[:3])}); download index and files again"
            )
        dropped.update(missing)
    return dropped
