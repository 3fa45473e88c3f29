"""PyTorch checkpoints of torch.save since 1.6: a zip archive of a pickle and the bytes of each storage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats.base import FileBytes
from rwkv_cy.formats.pickle_vm import MAX_PICKLE_BYTES, ByteStream, unpickle
from rwkv_cy.formats.raw import RawSource
from rwkv_cy.formats.state_dict import find_state_dict
from rwkv_cy.formats.torch_objects import TorchObjects
from rwkv_cy.formats.torch_tensors import Storage, checksums, place_tensors
from rwkv_cy.formats.zip_directory import Place, ZipEntry, locate_all, read_directory, read_entry
from rwkv_cy.tensors.tensor import ParameterSource

__all__ = ["open_pth"]

_PICKLE = "data.pkl"
_MAX_NOTE_BYTES = 64


def open_pth(path: Path) -> ParameterSource:
    """Open a zip archive of torch.save, without running code from it and without torch.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    ParameterSource
        With format ``"pth"``, and the other values of the checkpoint as metadata.

    Raises
    ------
    StorageError
        If the operating system reports an error.
    UnsupportedError
        If the archive is not from torch.save, is TorchScript, encrypted or big-endian, or holds more than tensors.
    FormatError
        If it is damaged.
    """
    file = FileBytes(path)
    try:
        return _open(file)
    except BaseException:
        file.close()
        raise


def _open(file: FileBytes) -> ParameterSource:
    entries = read_directory(file)
    prefix = _archive_prefix(file, entries)
    _check_byte_order(file, entries.get(f"{prefix}byteorder"))
    data = read_entry(file, entries[f"{prefix}{_PICKLE}"], MAX_PICKLE_BYTES)
    stream = ByteStream(file.path, lambda offset, size: data[offset : offset + size], 0, len(data))
    objects = TorchObjects(file.path)
    root = unpickle(stream, objects.allowed, objects.storage)
    if stream.position != len(data):
        raise FormatError(
            f"{file.path}: expected the pickle to end at byte {stream.position}, got {len(data)} bytes; "
            "the file is damaged: download it again"
        )
    state = find_state_dict(file.path, root)
    tensors = state.in_file if state.converted else state.usable
    used = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    places = _locate_storages(file, entries, prefix, used)
    if state.converted:
        from rwkv_cy.formats.rwkv_package import open_converted  # which few files need

        return open_converted(file, "pth", state, places)
    placed = place_tensors(file.path, tensors, places)
    return RawSource(file, "pth", placed, state.others, checksums(tensors, places), state.left_out)


def _archive_prefix(file: FileBytes, entries: Mapping[str, ZipEntry]) -> str:
    """Return the top folder of the archive with its slash: ``"archive/"``."""
    lines = "\n/".join(("", *entries, ""))  # searched as one text, thousands of names take no time
    if "/code/" in lines or "/constants.pkl\n" in lines:
        raise UnsupportedError(
            f"{file.path}: expected the weights of a model, got a TorchScript program; "
            "save its weights, as torch.save(torch.jit.load(path).state_dict(), other_path) does"
        )
    pickles = [name for name in entries if name.endswith(_PICKLE) and f"/{name}".endswith(f"/{_PICKLE}")]
    if not pickles:
        held = ", ".join(repr(name[:40]) for name in list(entries)[:3]) or "nothing"
        raise UnsupportedError(
            f"{file.path}: expected a PyTorch checkpoint, got a zip archive without {_PICKLE} (it holds {held}); "
            "unpack it and name the file that holds the model"
        )
    if len(pickles) > 1:
        raise FormatError(
            f"{file.path}: expected one {_PICKLE} in the archive, got {len(pickles)}; it is not a checkpoint"
        )
    return pickles[0][: -len(_PICKLE)]


def _check_byte_order(file: FileBytes, entry: ZipEntry | None) -> None:
    """Refuse other byte orders; torch before 2.1 wrote little-endian files only, without this entry."""
    if entry is None:
        return
    note = read_entry(file, entry, _MAX_NOTE_BYTES)
    if note.strip() != b"little":
        raise UnsupportedError(
            f"{file.path}: expected numbers in little-endian byte order, got {note!r}; "
            "load it with torch on this machine and save it again"
        )


def _locate_storages(
    file: FileBytes, entries: Mapping[str, ZipEntry], prefix: str, storages: Mapping[str, Storage]
) -> dict[str, Place]:
    found: list[ZipEntry] = []
    for key, storage in storages.items():
        entry = entries.get(f"{prefix}data/{key}")
        if entry is None or entry.size != storage.nbytes:
            got = "none" if entry is None else f"{entry.size}"
            raise FormatError(
                f"{file.path}: expected {storage.nbytes} bytes of {storage.element.name} in entry data/{key[:40]}, "
                f"got {got}; the file is damaged: download it again"
            )
        found.append(entry)
    return dict(zip(storages, locate_all(file, found), strict=True))
