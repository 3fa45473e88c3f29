"""PyTorch checkpoints of torch.save before 1.6: a stream of five pickles, then the bytes of each storage.

The pickles are a magic number, the protocol version, facts of the system, the object, and the list of storage keys.
Then, for each key: int64 count of elements, and the elements. All is little-endian. Source: torch/serialization.py
(_legacy_save) of PyTorch 2.13.
"""

from __future__ import annotations

from pathlib import Path

from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats.base import FileBytes
from rwkv_cy.formats.pickle_vm import MAX_PICKLE_BYTES, ByteStream, unpickle
from rwkv_cy.formats.raw import RawSource
from rwkv_cy.formats.signatures import LEGACY_MAGIC
from rwkv_cy.formats.state_dict import find_state_dict
from rwkv_cy.formats.torch_objects import TorchObjects
from rwkv_cy.formats.torch_tensors import place_tensors
from rwkv_cy.formats.zip_directory import Place
from rwkv_cy.tensors.tensor import ParameterSource
from rwkv_cy.units import exact_bytes

__all__ = ["open_pth_legacy"]

_PROTOCOL = 1001


def open_pth_legacy(path: Path) -> ParameterSource:
    """Open a legacy stream of torch.save, without running code from it and without torch.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    ParameterSource
        With format ``"pth-legacy"``, and the other values of the checkpoint as metadata.

    Raises
    ------
    StorageError
        If the operating system reports an error.
    UnsupportedError
        If it holds more than tensors, or comes from a big-endian machine.
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
    head = file.read_at(0, min(len(LEGACY_MAGIC), file.size))
    if head != LEGACY_MAGIC:
        raise FormatError(f"{file.path}: expected a legacy PyTorch stream, got bytes {head.hex()}")
    objects = TorchObjects(file.path, views=True)
    stream = ByteStream(file.path, file.read_at, len(head), min(file.size, len(head) + MAX_PICKLE_BYTES))
    protocol = unpickle(stream, {})
    if protocol != _PROTOCOL:
        shown = protocol if type(protocol) is int else type(protocol).__name__
        raise UnsupportedError(f"{file.path}: expected protocol {_PROTOCOL} of PyTorch's stream, got {shown}")
    system = unpickle(stream, {})
    if type(system) is not dict or system.get("little_endian") is not True:
        raise UnsupportedError(
            f"{file.path}: expected numbers in little-endian byte order, got another; "
            "load it with torch on the machine that wrote it and save it again"
        )
    root = unpickle(stream, objects.allowed, objects.storage)
    keys = unpickle(stream, {})
    offsets = _storage_offsets(file, objects, keys, stream.position)
    state = find_state_dict(file.path, root)
    places = {key: Place(offset) for key, offset in offsets.items()}
    if state.converted:
        from rwkv_cy.formats.rwkv_package import open_converted  # which few files need

        return open_converted(file, "pth-legacy", state, places)
    placed = place_tensors(file.path, state.usable, places)
    return RawSource(file, "pth-legacy", placed, state.others, left_out=state.left_out)


def _storage_offsets(file: FileBytes, objects: TorchObjects, keys: object, position: int) -> dict[str, int]:
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise FormatError(f"{file.path}: expected a list of storage keys, got {type(keys).__name__}; it is damaged")
    if len(keys) != len(objects.storages) or set(keys) != set(objects.storages):
        raise FormatError(
            f"{file.path}: expected the keys of {len(objects.storages)} storages, got {len(keys)} others; it is damaged"
        )
    offsets: dict[str, int] = {}
    for key in keys:
        storage = objects.storages[key]
        count = int.from_bytes(file.read_at(position, 8), "little", signed=True)
        if count != storage.count:
            raise FormatError(
                f"{file.path}: expected {storage.count} elements of storage {key[:40]!r}, got {count}; "
                "the file is damaged: download it again"
            )
        offsets[key] = position + 8
        position += 8 + storage.nbytes
    if position != file.size:
        raise FormatError(
            f"{file.path}: expected {exact_bytes(position)} in the file, got {exact_bytes(file.size)}; "
            "it is cut short or damaged: download or copy it again"
        )
    return offsets
