"""A writer of GGUF files by hand, with struct: good ones, and ones with one thing wrong."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: GGUF's numbers for types of values, and how struct writes them.
VALUE_TYPES = {
    "uint8": (0, "B"),
    "int8": (1, "b"),
    "uint16": (2, "H"),
    "int16": (3, "h"),
    "uint32": (4, "I"),
    "int32": (5, "i"),
    "float32": (6, "f"),
    "bool": (7, "?"),
    "uint64": (10, "Q"),
    "int64": (11, "q"),
    "float64": (12, "d"),
}
STRING, ARRAY = 8, 9
TENSOR_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "q2_k": 10,
    "q3_k": 11,
    "q4_k": 12,
    "q5_k": 13,
    "q6_k": 14,
    "iq4_nl": 20,
    "iq4_xs": 23,
    "f64": 28,
    "bf16": 30,
}


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value(kind: str, content: Any) -> bytes:
    """A value with its type in front: a number, a string, or an array (``"uint32[]"``)."""
    element = kind.removesuffix("[]")
    if element == "string":
        number, write = STRING, string
    else:
        number, letter = VALUE_TYPES[element]

        def write(one: Any) -> bytes:
            return struct.pack(f"<{letter}", one)

    if kind.endswith("[]"):
        return struct.pack("<IIQ", ARRAY, number, len(content)) + b"".join(map(write, content))
    return struct.pack("<I", number) + write(content)


@dataclass
class Tensor:
    """A tensor's description and its bytes; what is given differs from what the bytes need in bad files."""

    name: str | bytes
    shape: Sequence[int]
    data: bytes
    kind: int = 0
    offset: int | None = None

    @classmethod
    def of(cls, name: str, array: Array) -> Tensor:
        """An array of float64, float32 or float16; uint16 stands for bfloat16."""
        kind = {"<f8": "f64", "<f4": "f32", "<f2": "f16", "<u2": "bf16"}[array.dtype.str]
        return cls(name, array.shape, array.tobytes(), TENSOR_TYPES[kind])


@dataclass
class Gguf:
    """A file, piece by piece."""

    values: Sequence[tuple[str | bytes, bytes]] = ()
    tensors: Sequence[Tensor] = ()
    magic: bytes = b"GGUF"
    version: bytes = struct.pack("<I", 3)
    tensor_count: int | None = None
    value_count: int | None = None
    alignment: int = 32
    after: bytes = field(default=b"")

    def to_bytes(self) -> bytes:
        counts = (
            len(self.tensors) if self.tensor_count is None else self.tensor_count,
            len(self.values) if self.value_count is None else self.value_count,
        )
        out = self.magic + self.version + struct.pack("<QQ", *counts)
        out += b"".join(string(key) + raw for key, raw in self.values)
        data = b""
        for tensor in self.tensors:
            offset = len(data) if tensor.offset is None else tensor.offset
            out += string(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape[::-1])
            out += struct.pack("<IQ", tensor.kind, offset)
            data += tensor.data
            data += bytes(-len(data) % self.alignment)
        return out + bytes(-len(out) % self.alignment) + data + self.after


def rwkv7_values(parameters: Mapping[str, Array], **changed: bytes | None) -> list[tuple[str | bytes, bytes]]:
    """The metadata that llama.cpp's converter writes for RWKV-7; names of changed values have ``_`` for ``.``."""
    width = parameters["emb.weight"].shape[1]
    layers = sum(name.endswith(".ln1.weight") for name in parameters)
    ranks = {
        "decay": parameters["blocks.0.att.w1"],
        "iclr": parameters["blocks.0.att.a1"],
        "value_residual_mix": parameters[f"blocks.{layers - 1}.att.v1"],
        "gate": parameters["blocks.0.att.g1"],
    }
    values = {
        "general.architecture": value("string", "rwkv7"),
        "rwkv7.context_length": value("uint32", 1048576),
        "rwkv7.embedding_length": value("uint32", width),
        "rwkv7.block_count": value("uint32", layers),
        "rwkv7.attention.layer_norm_epsilon": value("float32", 1e-5),
        "rwkv7.wkv.head_size": value("uint32", parameters["blocks.0.att.r_k"].shape[1]),
        **{f"rwkv7.attention.{name}_lora_rank": value("uint32", array.shape[1]) for name, array in ranks.items()},
        "rwkv7.feed_forward_length": value("uint32", parameters["blocks.0.ffn.key.weight"].shape[0]),
        "general.file_type": value("uint32", 0),
        "rwkv7.attention.head_count": value("uint32", 0),
    }
    for key in list(values):
        new = changed.pop(key.replace(".", "_"), values[key])
        if new is None:
            del values[key]
        else:
            values[key] = new
    assert not changed, changed
    return list(values.items())


def rwkv7_tensors(parameters: Mapping[str, Array]) -> list[Tensor]:
    """The tensors that llama.cpp's converter (conversion/rwkv.py) makes of a model of RWKV-7."""
    outer = {"emb.weight": "token_embd.weight", "head.weight": "output.weight"}
    tensors = {}
    for name, array in parameters.items():
        if name in outer:
            tensors[outer[name]] = array
            continue
        if name.startswith("ln_out."):
            tensors[name.replace("ln_out", "output_norm")] = array
            continue
        _, layer, *parts = name.split(".")
        block, last = f"blk.{layer}.", parts[-1]
        if parts[0] == "ln0":
            tensors[f"token_embd_norm.{last}"] = array
        elif parts[0] in ("ln1", "ln2"):
            tensors[f"{block}attn_norm{'' if parts[0] == 'ln1' else '_2'}.{last}"] = array
        elif parts[:2] == ["att", "ln_x"]:
            tensors[f"{block}time_mix_ln.{last}"] = array
        elif len(parts) == 3:
            tensors[f"{block}{'time' if parts[0] == 'att' else 'channel'}_mix_{parts[1]}.{last}"] = array
        elif parts[0] == "ffn":
            tensors[f"{block}channel_mix_lerp_{last[-1]}.weight"] = array.reshape(-1)
        elif last.startswith("x_"):
            mixes = [parameters[f"blocks.{layer}.att.x_{mix}"] for mix in "rwkvag"]
            tensors[f"{block}time_mix_lerp_fused.weight"] = np.stack(mixes)
        elif last[0] == "v" and layer == "0":
            # Those of the learning rate in their place.
            array = parameters[f"blocks.0.att.a{last[1]}"]
            tensors[f"{block}time_mix_{last}.weight"] = array.reshape(-1) if last[1] == "0" else array.T
        elif array.ndim == 2 and last != "r_k":
            tensors[f"{block}time_mix_{last}.weight"] = array.T
        else:
            tensors[f"{block}time_mix_{last}.weight"] = array.reshape(-1)
    return [Tensor.of(name, np.ascontiguousarray(array)) for name, array in tensors.items()]


def world_like(words: Sequence[bytes], rows: int) -> list[tuple[str | bytes, bytes]]:
    """The vocabulary as llama.cpp's converter writes it: these tokens from id 1, padded to so many rows."""
    tokens = ["<s>", *(repr(word)[2:-1] for word in words)]
    kinds = [3] + [1] * len(words) + [5] * (rows - len(tokens))
    tokens += [f"[PAD{i}]" for i in range(len(tokens), rows)]
    return [
        ("tokenizer.ggml.model", value("string", "rwkv")),
        ("tokenizer.ggml.tokens", value("string[]", tokens)),
        ("tokenizer.ggml.token_type", value("int32[]", kinds)),
    ]


def rwkv7_gguf(parameters: Mapping[str, Array]) -> bytes:
    """A whole, good file, without a vocabulary."""
    return Gguf(rwkv7_values(parameters), rwkv7_tensors(parameters)).to_bytes()
