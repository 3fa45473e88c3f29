"""Numbers that stand for types in GGUF files: those of metadata, and those of tensors.

Source: github.com/ggml-org/ggml, docs/gguf.md and include/ggml.h (``enum ggml_type``).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

__all__ = [
    "ARRAY",
    "BOOL",
    "FLOAT32",
    "INT32",
    "SCALARS",
    "STRING",
    "TENSOR_TYPES",
    "UINT32",
    "UNREAD_TYPES",
    "VALUE_NAMES",
]

#: Types of values in the metadata that have a fixed size.
SCALARS: Mapping[int, struct.Struct] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9

VALUE_NAMES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32"),
    *("bool", "string", "array", "uint64", "int64", "float64"),
)

#: Types of tensors that are read: a storage type, or the name of a block type.
TENSOR_TYPES: Mapping[int, str] = {
    0: "f32",
    1: "f16",
    2: "q4_0",
    3: "q4_1",
    6: "q5_0",
    7: "q5_1",
    8: "q8_0",
    10: "q2_k",
    11: "q3_k",
    12: "q4_k",
    13: "q5_k",
    14: "q6_k",
    20: "iq4_nl",
    23: "iq4_xs",
    28: "f64",
    30: "bf16",
}

#: Types that are known by name and not read.
UNREAD_TYPES: Mapping[int, str] = {
    **dict.fromkeys((4, 5), "Q4_2 or Q4_3, which llama.cpp has withdrawn"),
    **dict.fromkeys((31, 32, 33, 36, 37, 38), "a repacked Q4_0 or IQ4_NL, which llama.cpp has withdrawn"),
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}
