"""Writers of safetensors files: plain, and web-rwkv's ``.st``.

Source: github.com/huggingface/safetensors, README.md, "Format", and safetensors/src/tensor.rs for the order of the
tensors, which keeps each aligned: by size of their type, the larger first, then by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

from rwkv_cy.files.blocks import Block
from rwkv_cy.formats.writers.base import (
    FLOAT_TYPES,
    ExportedModel,
    ExportFormat,
    ExportTensor,
    ReadTensor,
    StoredTensor,
    StoredType,
    TargetFile,
)

__all__ = ["SafetensorsFormat", "WebRwkvFormat", "safetensors_file"]

#: The library's names of the types, in the order of their tensors within a file.
_TYPES = {"f64": "F64", "f32": "F32", "bf16": "BF16", "f16": "F16"}
_ORDER = {name: place for place, name in enumerate(_TYPES)}
_ALIGNMENT = 8
#: transformers refuses files that do not name the library whose tensors they hold.
_METADATA = {"format": "pt"}


class SafetensorsFormat(ExportFormat):
    """A safetensors file."""

    name = "safetensors"
    label = "safetensors"
    suffixes = (".safetensors",)
    layouts: ClassVar[tuple[str, ...]] = ("original", "transformers", "fla", "web-rwkv")

    def recognises(self, head: bytes) -> bool:
        """Tell whether these bytes begin a safetensors file: a length, and a JSON object."""
        return head[8:9] == b"{"

    def files(self, model: ExportedModel, tensors: Sequence[StoredTensor]) -> Sequence[TargetFile]:
        """Return the one file."""
        return (safetensors_file("", tensors),)


class WebRwkvFormat(SafetensorsFormat):
    """A safetensors file as web-rwkv reads it: every tensor in float16."""

    name = "st"
    label = "web-rwkv .st"
    suffixes = (".st",)
    layouts = ("web-rwkv",)
    dtypes = ("f16",)

    def store(self, tensor: ExportTensor, dtype: str | None) -> StoredType:
        """Return float16."""
        return FLOAT_TYPES["f16"]


def safetensors_file(
    name: str, tensors: Iterable[StoredTensor], metadata: Mapping[str, str] | None = None
) -> TargetFile:
    """Return a safetensors file of these tensors.

    Parameters
    ----------
    name : str
        Of the file within a folder.
    tensors : iterable of StoredTensor
        Of plain floating point types.
    metadata : mapping of str to str, optional
        ``__metadata__``; by default what transformers needs.
    """
    ordered = sorted(tensors, key=lambda tensor: (_ORDER[tensor.type.name], tensor.name))
    header: dict[str, object] = {"__metadata__": dict(_METADATA if metadata is None else metadata)}
    end = 0
    for tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": _TYPES[tensor.type.name],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    head = len(text).to_bytes(8, "little") + text
    return TargetFile(name, len(head) + end, _blocks(head, ordered))


def _blocks(head: bytes, tensors: Sequence[StoredTensor]) -> Callable[[ReadTensor], Iterator[Block]]:
    def blocks(read: ReadTensor) -> Iterator[Block]:
        yield head
        for tensor in tensors:
            yield from read(tensor)

    return blocks
