"""Writers of foreign model files, by hand: struct and json, and a scalar quantizer for each block of ggml."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SAFETENSORS_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def rwkv4_parameters(vocab: int = 6, width: int = 32, layers: int = 2, ffn: int = 64) -> dict[str, Array]:
    """A small RWKV-4 with canonical names and shapes, float32, every tensor different."""
    rng = np.random.default_rng(4)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    parameters = {"emb.weight": normal(vocab, width)}
    for layer in range(layers):
        block = f"blocks.{layer}."
        for norm in ("ln0", "ln1", "ln2") if layer == 0 else ("ln1", "ln2"):
            parameters |= {f"{block}{norm}.weight": normal(width), f"{block}{norm}.bias": normal(width)}
        parameters |= {f"{block}att.time_{which}": normal(width) for which in ("decay", "first")}
        parameters |= {f"{block}att.time_mix_{which}": normal(1, 1, width) for which in "kvr"}
        parameters |= {f"{block}att.{m}.weight": normal(width, width) for m in ("key", "value", "receptance", "output")}
        parameters |= {f"{block}ffn.time_mix_{which}": normal(1, 1, width) for which in "kr"}
        parameters |= {
            f"{block}ffn.key.weight": normal(ffn, width),
            f"{block}ffn.receptance.weight": normal(width, width),
            f"{block}ffn.value.weight": normal(width, ffn),
        }
    return parameters | {
        "ln_out.weight": normal(width),
        "ln_out.bias": normal(width),
        "head.weight": normal(vocab, width),
    }


def rwkv7_parameters(vocab: int = 6, heads: tuple[int, int] = (2, 16), layers: int = 2) -> dict[str, Array]:
    """A small RWKV-7 with canonical names and shapes, float32, every tensor different; ranks 3, 4, 5 and 6."""
    rng = np.random.default_rng(7)
    width = heads[0] * heads[1]

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    def norm(name: str) -> dict[str, Array]:
        return {f"{name}.weight": normal(width), f"{name}.bias": normal(width)}

    parameters = {"emb.weight": normal(vocab, width), **norm("blocks.0.ln0")}
    for layer in range(layers):
        block = f"blocks.{layer}."
        parameters |= norm(f"{block}ln1") | norm(f"{block}ln2")
        parameters |= {f"{block}att.x_{which}": normal(1, 1, width) for which in "rwkvag"}
        for which, rank in zip("wavg", (3, 4, 5, 6), strict=True):
            if which != "g":
                parameters[f"{block}att.{which}0"] = normal(1, 1, width)
            parameters |= {f"{block}att.{which}1": normal(width, rank), f"{block}att.{which}2": normal(rank, width)}
        parameters |= {f"{block}att.{name}": normal(1, 1, width) for name in ("k_k", "k_a")}
        parameters[f"{block}att.r_k"] = normal(*heads)
        parameters |= {f"{block}att.{m}.weight": normal(width, width) for m in ("receptance", "key", "value", "output")}
        parameters |= norm(f"{block}att.ln_x")
        parameters |= {
            f"{block}ffn.x_k": normal(1, 1, width),
            f"{block}ffn.key.weight": normal(4 * width, width),
            f"{block}ffn.value.weight": normal(width, 4 * width),
        }
    return {**parameters, **norm("ln_out"), "head.weight": normal(vocab, width)}


def rwkv5_parameters(version: str = "5.2", heads: tuple[int, int] = (2, 16), layers: int = 2) -> dict[str, Array]:
    """A small RWKV-5 with canonical names and shapes, float32, every tensor different."""
    rng = np.random.default_rng(5)
    width = heads[0] * heads[1]
    decay = heads if version == "5.2" else heads[:1]
    own: dict[str, tuple[int, ...]] = {
        "ln_x.weight": (width,),
        "ln_x.bias": (width,),
        "time_decay": decay,
        "time_faaaa": decay,
    }
    if version != "5.0":
        own |= {"gate.weight": (width, width), "time_mix_g": (1, 1, width)}
    base = {n: a for n, a in rwkv4_parameters(width=width, layers=layers).items() if not n.endswith(".time_first")}
    return base | {
        f"blocks.{i}.att.{name}": rng.standard_normal(shape).astype(np.float32)
        for i in range(layers)
        for name, shape in own.items()
    }


def rwkv6_parameters(
    heads: tuple[int, int] = (2, 16), layers: int = 2, ranks: tuple[int, int] = (3, 4)
) -> dict[str, Array]:
    """A small RWKV-6 with canonical names and shapes, float32, every tensor different; `ranks` of mixes and decay."""
    rng = np.random.default_rng(6)
    width = heads[0] * heads[1]
    own: dict[str, tuple[int, ...]] = {
        **{f"att.time_maa_{name}": (1, 1, width) for name in "xwkvrg"},
        "att.time_maa_w1": (width, 15),
        "att.time_maa_w2": (5, 3, width),
        "att.time_decay": (1, 1, width),
        "att.time_decay_w1": (width, 4),
        "att.time_decay_w2": (4, width),
        "att.time_state": (heads[0], heads[1], heads[1]),
        **{f"ffn.time_maa_{name}": (1, 1, width) for name in "kr"},
    }
    base = {n: a for n, a in rwkv5_parameters("5.2", heads, layers).items() if ".time_mix_" not in n}
    return base | {
        f"blocks.{i}.{name}": rng.standard_normal(shape).astype(np.float32)
        for i in range(layers)
        for name, shape in own.items()
    }


def huggingface_name(name: str) -> str:
    """The name that transformers gives to a parameter of RWKV-4."""
    if name == "head.weight":
        return name
    name = name.replace("emb.", "embeddings.").replace(".ln0.", ".pre_ln.")
    name = name.replace(".att.", ".attention.").replace(".ffn.", ".feed_forward.")
    for short, long in (("k", "key"), ("v", "value"), ("r", "receptance")):
        if name.endswith(f".time_mix_{short}"):
            name = name[:-1] + long
    return f"rwkv.{name}"


def squeezed(parameters: Mapping[str, Array]) -> dict[str, Array]:
    """The same parameters, with the vectors of the time mix as plain vectors."""
    return {name: array.squeeze() if ".time_" in name else array for name, array in parameters.items()}


def safetensors_header(tensors: Mapping[str, Array]) -> dict[str, Any]:
    """The header of a file that holds these arrays in their order; uint16 stands for bfloat16."""
    header: dict[str, Any] = {}
    position = 0
    for name, array in tensors.items():
        types = SAFETENSORS_TYPES | {"I64": "<i8"}
        dtype = next(key for key, value in types.items() if array.dtype == np.dtype(value))
        end = position + array.nbytes
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    return header


def safetensors_file(header: object, data: bytes) -> bytes:
    """A file with this header, given as JSON text, bytes, or anything that json can write."""
    raw = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def safetensors_bytes(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """A whole, good file."""
    header = safetensors_header(tensors)
    if metadata is not None:
        header = {"__metadata__": dict(metadata), **header}
    raw = json.dumps(header)
    padded = raw + " " * (-len(raw) % 8)
    return safetensors_file(padded, b"".join(array.tobytes() for array in tensors.values()))


RWKVCPP_TYPES = {"fp32": 0, "fp16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 7, "q5_1": 8, "q8_0": 9}


def rwkvcpp_header(
    n_vocab: int = 6, n_embed: int = 32, n_layer: int = 0, data_type: int = 0, version: int = 101
) -> bytes:
    return struct.pack("<6I", 0x67676D66, version, n_vocab, n_embed, n_layer, data_type)


def rwkvcpp_tensor(name: str | bytes, shape: tuple[int, ...], data: bytes, data_type: int = 0) -> bytes:
    key = name.encode() if isinstance(name, str) else name
    dimensions = struct.pack(f"<{len(shape)}I", *shape[::-1])
    return struct.pack("<3I", len(shape), len(key), data_type) + dimensions + key + data


def rwkvcpp_file(tensors: Mapping[str, Array]) -> bytes:
    """A file of float32 tensors as they are, whatever their names."""
    vocab, width = tensors["emb.weight"].shape
    layers = sum(name.endswith(".ln1.weight") for name in tensors)
    return rwkvcpp_header(vocab, width, layers) + b"".join(
        rwkvcpp_tensor(name, array.shape, array.astype("<f4").tobytes()) for name, array in tensors.items()
    )


def rwkvcpp_bytes(parameters: Mapping[str, Array], matrices: str = "fp32", version: int = 101) -> bytes:
    """A whole, good file of RWKV-4, as rwkv.cpp's own scripts write it: matrices as named, the rest float32."""
    vocab, width = parameters["emb.weight"].shape
    layers = sum(name.endswith(".ln1.weight") for name in parameters)
    out = [rwkvcpp_header(vocab, width, layers, RWKVCPP_TYPES[matrices], version)]
    for name, array in squeezed(parameters).items():
        if name.endswith(".att.time_decay"):
            array = -np.exp(array.astype(np.float64)).astype(np.float32)
        kind = matrices if array.ndim == 2 else "fp32"
        if matrices.startswith("q") and name in ("emb.weight", "head.weight"):
            kind = "fp16"
        out.append(rwkvcpp_tensor(name, array.shape, encode(kind, array.reshape(-1)), RWKVCPP_TYPES[kind]))
    return b"".join(out)


def encode(kind: str, numbers: Array) -> bytes:
    """Numbers in a type of rwkv.cpp."""
    if kind in ("fp32", "fp16"):
        return numbers.astype({"fp32": "<f4", "fp16": "<f2"}[kind]).tobytes()
    blocks = numbers.astype(np.float64).reshape(-1, 32).tolist()
    return b"".join(_BLOCK_WRITERS[kind](block) for block in blocks)


def _levels(block: list[float], low: float, step: float, count: int) -> list[int]:
    """The nearest of `count` levels, the first of which is at `low`."""
    return [min(max(round((x - low) / step), 0), count - 1) if step else 0 for x in block]


def _nibbles(levels: list[int]) -> bytes:
    return bytes((levels[i] & 15) | (levels[i + 16] & 15) << 4 for i in range(16))


def _high_bits(levels: list[int]) -> bytes:
    return struct.pack("<I", sum((level >> 4) << i for i, level in enumerate(levels)))


def _half(x: float) -> float:
    return float(np.float16(x))


def _symmetric(count: int, high: bool) -> Callable[[list[float]], bytes]:
    def write(block: list[float]) -> bytes:
        d = _half(max(map(abs, block)) / (count / 2 - 1))
        levels = _levels(block, -count / 2 * d, d, count)
        return struct.pack("<e", d) + (_high_bits(levels) if high else b"") + _nibbles(levels)

    return write


def _affine(count: int, high: bool) -> Callable[[list[float]], bytes]:
    def write(block: list[float]) -> bytes:
        m = _half(min(block))
        d = _half((max(block) - m) / (count - 1))
        levels = _levels(block, m, d, count)
        return struct.pack("<ee", d, m) + (_high_bits(levels) if high else b"") + _nibbles(levels)

    return write


def _q8_0(block: list[float]) -> bytes:
    d = _half(max(map(abs, block)) / 127)
    return struct.pack("<e32b", d, *(min(max(round(x / d), -128), 127) if d else 0 for x in block))


_BLOCK_WRITERS: dict[str, Callable[[list[float]], bytes]] = {
    "q4_0": _symmetric(16, high=False),
    "q4_1": _affine(16, high=False),
    "q5_0": _symmetric(32, high=True),
    "q5_1": _affine(32, high=True),
    "q8_0": _q8_0,
}


def decode_block(kind: str, block: bytes) -> list[float]:
    """One block of ggml, number by number, by the formulas alone: low nibble element i, high nibble element i + 16."""
    (d,) = struct.unpack_from("<e", block)
    at = 2
    m = None
    if kind in ("q4_1", "q5_1"):
        (m,) = struct.unpack_from("<e", block, at)
        at += 2
    high = 0
    if kind in ("q5_0", "q5_1"):
        (high,) = struct.unpack_from("<I", block, at)
        at += 4
    numbers = []
    for i in range(32):
        if kind == "q8_0":
            (q,) = struct.unpack_from("<b", block, at + i)
        else:
            byte = block[at + i % 16]
            q = (byte & 15 if i < 16 else byte >> 4) | (high >> i & 1) << 4
        if m is not None:
            numbers.append(q * d + m)
        else:
            numbers.append((q - {"q4_0": 8, "q5_0": 16, "q8_0": 0}[kind]) * d)
    return numbers


SHARD_INDEX = "model.safetensors.index.json"


def huggingface_parameters() -> dict[str, Array]:
    """The same small RWKV-4 under the names of transformers."""
    return {huggingface_name(name): array for name, array in rwkv4_parameters().items()}


def write_shards(folder: Path, arrays: dict[str, Array], count: int = 3) -> dict[str, str]:
    """Deal the tensors out to `count` shards; return the index's weight_map, written too."""
    names = list(arrays)
    weight_map = {}
    for i in range(count):
        file = f"model-{i + 1:05}-of-{count:05}.safetensors"
        held = {name: arrays[name] for name in names[i::count]}
        (folder / file).write_bytes(safetensors_bytes(held, {"format": "pt", f"only{i}": "x"}))
        weight_map |= dict.fromkeys(held, file)
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: object) -> None:
    """Write the index of a sharded model."""
    (folder / SHARD_INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def open_files(folder: Path) -> list[str]:
    """Return the files of a folder that this process has open."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the listing itself
            links.append(str(descriptor.readlink()))
    return [link for link in links if Path(link.removesuffix(" (deleted)")).is_relative_to(folder)]
