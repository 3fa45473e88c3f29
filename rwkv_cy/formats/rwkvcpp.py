"""Model files of rwkv.cpp: a header of six integers, then each tensor after a small header of its own.

Source: github.com/RWKV/rwkv.cpp, docs/FILE_FORMAT.md (versions 100 and 101), rwkv_file_format.inc and
python/convert_pytorch_to_ggml.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats.base import MAX_NAME_BYTES, FileBytes, add_checked_entry, check_shape, decode_name
from rwkv_cy.formats.ggml.source import GgmlSource, describe
from rwkv_cy.formats.raw import RawTensor
from rwkv_cy.formats.signatures import RWKVCPP_MAGIC
from rwkv_cy.records import dataclass

__all__ = ["FILE_HEADER", "TENSOR_HEADER", "TYPE_NAMES", "RwkvCppFile", "open_rwkvcpp"]


FILE_HEADER = struct.Struct("<4s5I")
TENSOR_HEADER = struct.Struct("<3I")
_VERSIONS = (100, 101)
_MAX_DIMENSIONS = 3
#: Bytes that are read with a tensor's header: those of its dimensions, and nearly every name.
_AHEAD = 128
_PLAIN = {"fp32": "f32", "fp16": "f16"}
#: By the file's number for them.
TYPE_NAMES = (
    *("fp32", "fp16", "q4_0", "q4_1", "q4_1_o", "q4_2", "q4_3", "q5_0", "q5_1", "q8_0"),
    *("q8_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_k"),
)
#: Why a type is refused.
_WITHDRAWN = "which rwkv.cpp has withdrawn; quantize the original model again"
_REFUSED = {
    **dict.fromkeys(("q4_1_o", "q4_2", "q4_3"), _WITHDRAWN),
    **dict.fromkeys(("q8_1", "q8_k"), "in which ggml keeps activations; quantize the original model again"),
}


@dataclass(frozen=True)
class _Header:
    version: int
    n_vocab: int
    n_embed: int
    n_layer: int
    data_type: str


def open_rwkvcpp(path: Path) -> RwkvCppFile:
    """Open a model file of rwkv.cpp, under the names and shapes that it uses itself.

    What rwkv.cpp computes or fuses is undone by its layouts: :mod:`rwkv_cy.formats.layouts.rwkvcpp`.

    Raises
    ------
    FormatError
        If the file violates the format.
    UnsupportedError
        If it is of a version of the format, or has numbers of a type, that rwkv.cpp itself does not read.
    StorageError
        If the operating system reports an error.
    """
    file = FileBytes(path)
    try:
        header = _read_header(file)
        tensors: dict[str, RawTensor] = {}
        for tensor in _walk(file, header.version):
            add_checked_entry(path, tensors, tensor.info.name, tensor)
        _check_dimensions(path, header, tensors)
        return RwkvCppFile(file, header, tensors)
    except BaseException:
        file.close()
        raise


class RwkvCppFile(GgmlSource):
    """An open model file of rwkv.cpp; quantized tensors read as float32."""

    def __init__(self, file: FileBytes, header: _Header, tensors: dict[str, RawTensor]) -> None:
        metadata = {
            "version": str(header.version),
            "n_vocab": str(header.n_vocab),
            "n_embed": str(header.n_embed),
            "n_layer": str(header.n_layer),
            "data_type": header.data_type,
        }
        super().__init__(file, "rwkvcpp", tensors, metadata)


def _read_header(file: FileBytes) -> _Header:
    if file.size < FILE_HEADER.size:
        raise FormatError(
            f"{file.path}: expected the {FILE_HEADER.size} bytes of rwkv.cpp's header, got {file.size}; "
            "the file is cut short: download or copy it again"
        )
    magic, version, n_vocab, n_embed, n_layer, data_type = FILE_HEADER.unpack(file.read_at(0, FILE_HEADER.size))
    if magic != RWKVCPP_MAGIC:
        raise FormatError(
            f"{file.path}: expected rwkv.cpp's magic {RWKVCPP_MAGIC!r}, got {magic!r}; it is another format"
        )
    if version not in _VERSIONS:
        raise UnsupportedError(
            f"{file.path}: expected version 100 or 101 of rwkv.cpp's format, got {version}; "
            "convert the original checkpoint instead"
        )
    return _Header(version, n_vocab, n_embed, n_layer, _type_name(f"{file.path}", data_type, version))


class _ReadAhead:
    """Reads what is short, and some bytes behind it: the header of a tensor and its name take one read."""

    def __init__(self, file: FileBytes) -> None:
        self._file = file
        self._data, self._begin = b"", 0

    def read_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; errors are those of :meth:`FileBytes.read_at`."""
        begin = offset - self._begin
        if not 0 <= begin <= len(self._data) - size:
            self._data = self._file.read_at(offset, max(size, min(_AHEAD, self._file.size - offset)))
            self._begin, begin = offset, 0
        return self._data[begin : begin + size]


def _walk(file: FileBytes, version: int) -> Iterator[RawTensor]:
    """Yield the tensors, going from header to header; their data is not read."""
    position = FILE_HEADER.size
    ahead = _ReadAhead(file)
    while position < file.size:
        dim_count, key_length, data_type = TENSOR_HEADER.unpack(ahead.read_at(position, TENSOR_HEADER.size))
        position += TENSOR_HEADER.size
        if not 1 <= dim_count <= _MAX_DIMENSIONS:
            raise FormatError(
                f"{file.path}: expected a tensor of 1 to {_MAX_DIMENSIONS} dimensions at byte {position}, "
                f"got {dim_count}; the file is damaged"
            )
        # The row comes first in the file, and last in the shape.
        reversed_shape = struct.unpack(f"<{dim_count}I", ahead.read_at(position, 4 * dim_count))
        position += 4 * dim_count
        name = decode_name(file.path, ahead.read_at(position, min(key_length, MAX_NAME_BYTES + 1)))
        position += key_length
        shape = check_shape(file.path, name, reversed_shape[::-1])
        dtype = _type_name(f"{file.path}: {name}", data_type, version)
        tensor = RawTensor(describe(file.path, name, shape, _PLAIN.get(dtype, dtype)), position)
        position += tensor.info.source_nbytes
        yield tensor


def _type_name(where: str, data_type: int, version: int) -> str:
    """Return the name of the file's type number, if this reader takes it."""
    if data_type >= len(TYPE_NAMES):
        raise FormatError(
            f"{where}: expected a type from 0 to {len(TYPE_NAMES) - 1}, got {data_type}; the file is damaged, or newer "
            "than this reader"
        )
    name = TYPE_NAMES[data_type]
    if name in _REFUSED:
        raise UnsupportedError(f"{where}: expected a type of weights, got {name}, {_REFUSED[name]}")
    if name not in _PLAIN and version == _VERSIONS[0]:
        raise UnsupportedError(
            f"{where}: expected fp32 or fp16 in version {version} of rwkv.cpp's format, got {name}, whose blocks have "
            "changed since; quantize the original model again"
        )
    return name


def _check_dimensions(path: Path, header: _Header, tensors: dict[str, RawTensor]) -> None:
    """Compare the header's dimensions with the tensors."""
    layers = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    embedding = tensors.get("emb.weight")
    found = (*(embedding.info.shape if embedding else (header.n_vocab, header.n_embed)), layers)
    expected = (header.n_vocab, header.n_embed, header.n_layer)
    if found != expected:
        raise FormatError(
            f"{path}: expected vocabulary, width and layers {expected} as the header says, got {found}; "
            "the file is cut short or damaged: download or copy it again"
        )
