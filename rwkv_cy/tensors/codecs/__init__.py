"""Codecs, one for each storage type. Code that stores or reads tensors uses the codec, not the name of the type."""

from rwkv_cy.dtypes import QUANTIZED_TYPES, STORAGE_TYPES, known_dtype
from rwkv_cy.tensors.codecs.base import BLOCK_SIZE, Codec, GroupedCodec, Plan, PlannedCodec, StoredArray, rows_at_once
from rwkv_cy.tensors.codecs.bf12 import BF12Codec
from rwkv_cy.tensors.codecs.block_quantized import BlockQuantizedCodec
from rwkv_cy.tensors.codecs.floats import FloatCodec

__all__ = [
    "BLOCK_SIZE",
    "CODECS",
    "Codec",
    "GroupedCodec",
    "Plan",
    "PlannedCodec",
    "StoredArray",
    "codec_of",
    "rows_at_once",
]

#: By the name of the storage type.
CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        *(FloatCodec(storage) for storage in STORAGE_TYPES.values()),
        BlockQuantizedCodec(QUANTIZED_TYPES["q8"], since=1),
        BlockQuantizedCodec(QUANTIZED_TYPES["q6"], since=3),
        BlockQuantizedCodec(QUANTIZED_TYPES["q4"], since=1),
        BlockQuantizedCodec(QUANTIZED_TYPES["q4n"], since=4),
        BF12Codec(),
    )
}


def codec_of(dtype: str) -> Codec:
    """Return the codec of a storage type, also by another spelling; ConfigError if there is no such type."""
    return CODECS[known_dtype(dtype)]
