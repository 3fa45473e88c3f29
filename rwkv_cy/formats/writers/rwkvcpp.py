"""Writer of rwkv.cpp's model files (``.bin``): version 101 of its format, its own choice of types.

Source: github.com/RWKV/rwkv.cpp, docs/FILE_FORMAT.md, python/convert_pytorch_to_ggml.py (what is float16) and
rwkv_quantize.inc (what is quantized).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from rwkv_cy.errors import ConfigError
from rwkv_cy.files.blocks import Block
from rwkv_cy.formats.ggml import BLOCK_TYPES
from rwkv_cy.formats.ggml.encode import ENCODERS
from rwkv_cy.formats.rwkvcpp import FILE_HEADER, TENSOR_HEADER, TYPE_NAMES
from rwkv_cy.formats.signatures import RWKVCPP_MAGIC
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
from rwkv_cy.formats.writers.ggml_types import block_type

__all__ = ["RwkvCppFormat"]

_VERSION = 101
_FILE_TYPES = {"f32": "fp32", "f16": "fp16"}
#: Parts of the names of tensors that stay float32 in any file, beside all vectors.
_FLOAT32 = (".time_", ".k_k", ".k_a", ".r_k", ".x_rwkvag", ".x_k", ".w0", ".a0", ".v0")
#: Parts of the names of matrices that are not quantized, beside embedding and head.
_NOT_QUANTIZED = (*(f"att.{name}{n}" for name in "vgaw" for n in "12"), "att.r_k")
_ROWS = ("emb.weight", "head.weight")


class RwkvCppFormat(ExportFormat):
    """A model file of rwkv.cpp."""

    name = "rwkvcpp"
    label = "rwkv.cpp .bin"
    suffixes = (".bin",)
    signatures = (RWKVCPP_MAGIC,)
    layouts = ("rwkv.cpp",)
    dtypes = ("f32", "f16", *ENCODERS)

    def store(self, tensor: ExportTensor, dtype: str | None) -> StoredType:
        """Choose as rwkv.cpp does, which quantizes a file of float16.

        A matrix whose rows are not whole blocks is not quantized: rwkv.cpp has no form for it.
        """
        if len(tensor.shape) == 1 or any(part in tensor.name for part in _FLOAT32):
            plain = "f32"
        elif dtype in FLOAT_TYPES:
            plain = str(dtype)
        else:
            plain = "f16" if dtype in ENCODERS or tensor.dtype == "f16" else "f32"
        if dtype in ENCODERS and _may_be_quantized(tensor, BLOCK_TYPES[dtype].size):
            return block_type(dtype, tensor.name)
        return FLOAT_TYPES[plain]

    def files(self, model: ExportedModel, tensors: Sequence[StoredTensor]) -> Sequence[TargetFile]:
        """Return the one file.

        Raises
        ------
        ConfigError
            If rwkv.cpp does not run a model of such widths.
        """
        config = model.config
        if config.d_att != config.d_model:
            raise ConfigError(
                f"{self.label}: expected an attention as wide as the model, {config.d_model}, got {config.d_att}; "
                "export to another format"
            )
        header = FILE_HEADER.pack(
            RWKVCPP_MAGIC, _VERSION, config.vocab_size, config.d_model, config.num_layers, _file_type(tensors)
        )
        parts = [_tensor_header(tensor) for tensor in tensors]
        size = len(header) + sum(map(len, parts)) + sum(tensor.nbytes for tensor in tensors)

        def blocks(read: ReadTensor) -> Iterator[Block]:
            yield header
            for tensor, part in zip(tensors, parts, strict=True):
                yield part
                yield from read(tensor)

        return (TargetFile("", size, blocks),)


def _may_be_quantized(tensor: ExportTensor, block_size: int) -> bool:
    excluded = tensor.name in _ROWS or any(part in tensor.name for part in _NOT_QUANTIZED)
    return len(tensor.shape) == 2 and not excluded and tensor.shape[1] % block_size == 0


def _file_type(tensors: Sequence[StoredTensor]) -> int:
    """Return the number of the type that most says of the file: quantized, float16, or float32."""
    names = {tensor.type.name for tensor in tensors}
    quantized = names - _FILE_TYPES.keys()
    return _type_number(quantized.pop() if quantized else "f16" if "f16" in names else "f32")


def _type_number(name: str) -> int:
    return TYPE_NAMES.index(_FILE_TYPES.get(name, name))


def _tensor_header(tensor: StoredTensor) -> bytes:
    name = tensor.name.encode()
    # The row comes first in the file, and last in the shape.
    sizes = struct.pack(f"<{len(tensor.shape)}I", *tensor.shape[::-1])
    return TENSOR_HEADER.pack(len(tensor.shape), len(name), _type_number(tensor.type.name)) + sizes + name
