"""Recognition of formats by their first bytes, never by name: a table of readers and one of refusals."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.files.reading import is_folder
from rwkv_cy.formats.base import FileBytes
from rwkv_cy.formats.canonical import canonical
from rwkv_cy.formats.signatures import GGUF_MAGIC, LEGACY_MAGIC, RWKVCPP_MAGIC
from rwkv_cy.records import dataclass
from rwkv_cy.tensors.tensor import ParameterSource

__all__ = ["open_checkpoint"]

#: Enough for every signature; that of a tar archive ends at 262.
_HEAD_BYTES = 512
_EXPECTED = "a model file, or a checkpoint of PyTorch, safetensors, rwkv.cpp or llama.cpp"
#: The longest header that the first eight bytes of a safetensors file could mean; eight letters mean far more.
_MAX_SAFETENSORS_HEADER = 1 << 48

Looks = Callable[[bytes], bool]


@dataclass(frozen=True)
class _Reader:
    """A format: its signature, and where it is read. The module is imported for the first file of that format."""

    looks: Looks
    module: str
    function: str

    def open(self, path: Path) -> ParameterSource:
        """Open a file of this format, under its own names."""
        reader = import_module(f"rwkv_cy.formats.{self.module}")
        source: ParameterSource = getattr(reader, self.function)(path)
        return source


@dataclass(frozen=True)
class _Refusal:
    looks: Looks
    what: str
    remedy: str


def _begins(*signatures: bytes) -> Looks:
    return lambda head: head.startswith(signatures)


def _begins_with_text(*signatures: bytes) -> Looks:
    return lambda head: head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(signatures)


def _looks_like_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_SAFETENSORS_HEADER


def _lists_parts(head: bytes) -> bool:
    return head.startswith(b"{") and b'"format": "rwkv-cy-parts"' in head


_READERS = (
    _Reader(_begins(b"PK\x03\x04", b"PK\x05\x06"), "pth", "open_pth"),
    _Reader(_begins(LEGACY_MAGIC), "pth_legacy", "open_pth_legacy"),
    _Reader(_begins(RWKVCPP_MAGIC), "rwkvcpp", "open_rwkvcpp"),
    _Reader(_begins(GGUF_MAGIC), "gguf.reader", "open_gguf"),
    _Reader(_looks_like_safetensors, "safetensors", "open_safetensors"),
)

_UNPACK = "unpack it and name the file inside"
_REFUSALS = (
    _Refusal(_begins(b"\x89HDF\r\n\x1a\n"), "an HDF5 file", "open it with rwkv_cy.load, which reads model files"),
    _Refusal(_begins(b"lmgg", b"tjgg"), "an old GGML file of llama.cpp", "name the checkpoint that it was made from"),
    _Refusal(
        _begins(b"version https://git-lfs"),
        "a Git LFS pointer, which has no weights in it",
        "run git lfs pull in its folder",
    ),
    _Refusal(
        _begins_with_text(b"<!doctype html", b"<html", b"<?xml", b"<head", b"<body"),
        "an HTML page, which a website sent instead of a file",
        "download the file itself",
    ),
    _Refusal(
        lambda head: head[257:262] == b"ustar",
        "a tar archive, the checkpoint format of torch 0.1",
        "load it with torch and save it again, or unpack it and name the file inside",
    ),
    _Refusal(
        lambda head: head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"),
        "a pickle that is not a PyTorch checkpoint, or a truncated one",
        "save the weights with torch.save, or copy the file again",
    ),
    _Refusal(_begins(b"\x93NUMPY"), "a NumPy array", "name the checkpoint that holds the whole model"),
    _Refusal(_begins(b"\x1f\x8b"), "a file compressed with gzip", _UNPACK),
    _Refusal(_begins(b"\xfd7zXZ\x00"), "a file compressed with xz", _UNPACK),
    _Refusal(_begins(b"(\xb5/\xfd"), "a file compressed with zstd", _UNPACK),
    _Refusal(_begins(b"BZh"), "a file compressed with bzip2", _UNPACK),
    _Refusal(_begins(b"7z\xbc\xaf\x27\x1c"), "a 7-Zip archive", _UNPACK),
    _Refusal(_begins(b"Rar!\x1a\x07"), "a RAR archive", _UNPACK),
    _Refusal(_lists_parts, "the list of the parts of a file", "join them: rwkv-cy join LIST TARGET"),
    _Refusal(_begins_with_text(b"{", b"["), "a JSON text", "name the folder or the file that holds the weights"),
)


def open_checkpoint(path: str | os.PathLike[str], *, expected: str = _EXPECTED) -> ParameterSource:
    """Open a foreign checkpoint of any format, under canonical names and shapes.

    Files are recognised by their content: PyTorch zip archives and legacy streams, safetensors, model files of
    rwkv.cpp, GGUF files of llama.cpp, and indexes of shards. A folder is opened as Hugging Face keeps them.

    Parameters
    ----------
    path : path-like
        A file, or a folder with a model in it.
    expected : str, optional
        What the caller reads, for the message about a file that is not recognised.

    Returns
    -------
    ParameterSource
        The open checkpoint; close it, or use it as a context manager.

    Raises
    ------
    StorageError
        If it does not exist, is not a regular file, or may not be read.
    UnsupportedError
        If it is of a kind that is recognised and not supported; the message says which, and what to do.
    FormatError
        If it is empty, damaged, or not recognised.
    """
    place = Path(path)
    if is_folder(place):
        from rwkv_cy.formats.huggingface import open_folder

        return open_folder(place, _open_file)
    head = _read_head(place)
    source = _open_index(place) if _looks_like_index(head) else _open_by(place, head, expected)
    try:
        return canonical(source)
    except BaseException:
        source.close()
        raise


def _open_index(path: Path) -> ParameterSource:
    from rwkv_cy.formats.shards import open_shards

    return open_shards(path, _open_file)


def _looks_like_index(head: bytes) -> bool:
    return _begins_with_text(b"{")(head) and (b'"weight_map"' in head or b'"total_size"' in head)


def _read_head(path: Path) -> bytes:
    with FileBytes(path) as file:
        return file.read_at(0, min(file.size, _HEAD_BYTES))


def _open_file(path: Path) -> ParameterSource:
    """Open one file of weights, not an index, so that an index cannot name itself."""
    return _open_by(path, _read_head(path))


def _open_by(path: Path, head: bytes, expected: str = _EXPECTED) -> ParameterSource:
    for reader in _READERS:
        if reader.looks(head):
            return reader.open(path)
    for refusal in _REFUSALS:
        if refusal.looks(head):
            raise UnsupportedError(f"{path}: expected a checkpoint, got {refusal.what}; {refusal.remedy}")
    raise FormatError(
        f"{path}: expected {expected}, got {_described(head)}; check that it is the right file and complete"
    )


def _described(head: bytes) -> str:
    """Return what a file that is not recognised begins with, as a text if it is one."""
    text = head.decode("utf-8", "ignore")
    if text.encode() == head[: len(text.encode())] and len(head) - len(text.encode()) < 4 and "\0" not in text:
        return f"a text that begins with {text[:16]!r}"
    return f"a file that begins with {head[:16]!r}"
