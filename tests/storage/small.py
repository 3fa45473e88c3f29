"""A small model file for the tests of storage: every storage type, every layout, and a tokenizer."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import PACKED, QUANTIZED_TYPES, array_dtype, f32_to_bf16
from rwkv_cy.kernels.matrix import pack
from rwkv_cy.kernels.packed import pack_matrix
from rwkv_cy.storage import ModelHeader, StoredTokenizer, write_model
from rwkv_cy.storage.checked_file import CheckedFile
from rwkv_cy.storage.footer import Footer
from rwkv_cy.storage.schema import MODEL_KIND, PAGE
from rwkv_cy.tensors.tensor import TensorInfo

Array = npt.NDArray[Any]

HEADER = ModelHeader(
    architecture="rwkv4",
    config={"d_model": 8, "layer_norm_eps": 1e-5, "activation": "relu²"},
    fingerprint="0123abcd",
    tokenizer=StoredTokenizer("world", b"vocabulary"),
    source={"name": "small.pth", "format": "pth"},
    created_by="rwkv-cy 0.1.0",
)
BARE_HEADER = replace(HEADER, tokenizer=None)


def tensors() -> dict[str, tuple[str, Array]]:
    """Parameters by name: storage type, and numbers in it."""
    rng = np.random.default_rng(5)
    return {
        "emb.weight": ("f32", rng.standard_normal((130, 128)).astype("<f4")),
        "blocks.0.ln1.weight": ("bf16", rng.integers(0, 1 << 16, 8).astype("<u2")),
        "blocks.0.att.time_mix_k": ("f16", rng.standard_normal((1, 1, 8)).astype("<f2")),
        "blocks.0.att.key.weight": ("bf16", rng.integers(0, 1 << 16, (8, 8)).astype("<u2")),
        "blocks.1.ln1.weight": ("f64", rng.standard_normal(8)),
        "head.weight": ("f32", rng.standard_normal((33, 32)).astype("<f4")),
    }


#: Canonical shapes of the quantized matrices: with whole groups and blocks, without, and of several chunks.
MATRIX_SHAPES = {
    "blocks.0.att.key.weight": (32, 64),
    "blocks.0.att.value.weight": (40, 70),
    "blocks.0.att.output.weight": (32, 128),
    "blocks.0.ffn.key.weight": (33, 130),
    "blocks.1.ffn.key.weight": (4100, 1030),
    "blocks.1.att.key.weight": (40, 70),
    "blocks.1.att.value.weight": (17, 140),
    "blocks.1.att.output.weight": (32, 64),
    "blocks.1.att.receptance.weight": (17, 75),
}


def quantized_tensors() -> dict[str, tuple[str, Array]]:
    """Quantized matrices by name, packed, and a vector beside them."""
    rng = np.random.default_rng(6)
    dtypes = ("q8", "q8", "q4", "q4", "q8", "q6", "q6", "q4n", "q4n")
    packed = {
        name: (dtype, pack(rng.standard_normal(shape, dtype=np.float32), dtype))
        for dtype, (name, shape) in zip(dtypes, MATRIX_SHAPES.items(), strict=True)
    }
    return {**packed, "ln_out.bias": ("f32", np.ones(3, "<f4"))}


#: Canonical shapes of matrices that lie as (columns, rows): a small one, a square one, one of several chunks.
TRANSPOSED = {
    "blocks.2.ffn.value.weight": (10, 30),
    "blocks.3.ffn.value.weight": (12, 12),
    "blocks.4.ffn.value.weight": (300, 4000),
}


def transposed_tensors() -> dict[str, tuple[str, Array]]:
    """Transposed matrices by name, as they lie, and another matrix beside them."""
    rng = np.random.default_rng(7)
    dtypes = ("bf16", "f64", "f32")
    lying = {
        name: (dtype, rng.integers(0, 1 << 15, shape[::-1]).astype(array_dtype(dtype)))
        for dtype, (name, shape) in zip(dtypes, TRANSPOSED.items(), strict=True)
    }
    return {**lying, "blocks.2.ffn.key.weight": ("f32", rng.standard_normal((30, 10)).astype("<f4"))}


#: Canonical shapes of matrices whose transposes are quantized: one that is not whole groups and blocks, a square one.
FACTORS = {"blocks.6.att.w1": (70, 24), "blocks.6.att.w2": (64, 64), "blocks.6.att.g1": (33, 130)}


def factor_tensors() -> dict[str, tuple[str, Array]]:
    """Quantized transposes by name, packed, and a matrix beside them."""
    rng = np.random.default_rng(9)
    packed = {
        name: (dtype, pack(rng.standard_normal(shape[::-1], dtype=np.float32), dtype))
        for dtype, (name, shape) in zip(("q8", "q8", "q4"), FACTORS.items(), strict=True)
    }
    return {**packed, "blocks.6.att.key.weight": ("f32", rng.standard_normal((30, 10)).astype("<f4"))}


#: Canonical shape of one in a single block, for files as small as can be.
FEW_FACTORS = {"blocks.7.att.w1": (20, 10)}


def few_factor_tensors() -> dict[str, tuple[str, Array]]:
    """A quantized transpose that is not a whole block, packed."""
    ((name, shape),) = FEW_FACTORS.items()
    return {name: ("q8", pack(np.random.default_rng(10).standard_normal(shape[::-1], np.float32), "q8"))}


#: Canonical shapes of the matrices in bf12: rows and columns that are not whole groups and chunks.
PACKED_SHAPES = {"blocks.5.att.key.weight": (18, 1030), "blocks.5.att.value.weight": (4, 128)}


def packed_tensors() -> dict[str, tuple[str, Array]]:
    """Matrices in bf12 by name: one with weights that escape, and one without."""
    rng = np.random.default_rng(8)
    words = {name: f32_to_bf16(rng.standard_normal(shape, "<f4")) for name, shape in PACKED_SHAPES.items()}
    words["blocks.5.att.key.weight"][[1, 17], 1027:] = np.arange(200, 206).reshape(2, 3) << 7
    words["blocks.5.att.value.weight"][...] &= 0x807F
    return {name: (PACKED, pack_matrix(array)) for name, array in words.items()}


def few_tensors() -> dict[str, tuple[str, Array]]:
    """As few as make a file, for tests that go over every byte of it."""
    return {"emb.weight": ("f32", np.arange(15, dtype="<f4").reshape(5, 3)), "ln_out.bias": ("f32", np.ones(3, "<f4"))}


def infos(contents: Mapping[str, tuple[str, Array]]) -> list[TensorInfo]:
    return [_info(name, dtype, array) for name, (dtype, array) in contents.items()]


def _info(name: str, dtype: str, array: Array) -> TensorInfo:
    factors = FACTORS | FEW_FACTORS
    shape, transposed = array.shape, name in TRANSPOSED or name in factors
    if name in TRANSPOSED:
        shape = array.shape[::-1]
    elif dtype in QUANTIZED_TYPES or dtype == PACKED:
        shape = (factors | MATRIX_SHAPES | PACKED_SHAPES)[name]
    return TensorInfo(name, shape, dtype, name, dtype, array.nbytes, transposed, array.nbytes)


def reader(contents: Mapping[str, tuple[str, Array]]) -> Callable[[TensorInfo, int, int], Array]:
    return lambda info, start, count: contents[info.name][1].reshape(-1)[start : start + count]


def write_small(
    path: Path,
    contents: Mapping[str, tuple[str, Array]] | None = None,
    header: ModelHeader = HEADER,
    **options: Any,
) -> Mapping[str, tuple[str, Array]]:
    contents = tensors() if contents is None else contents
    write_model(path, header, infos(contents), reader(contents), **options)
    return contents


def python(program: str, *arguments: object) -> list[str]:
    """Return the command that runs a program in a process of its own, with the same modules to import."""
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{program}", *map(str, arguments)]


def overwrite_at(path: Path, offset: int, data: bytes) -> None:
    """Change bytes of a file, its length staying as it is."""
    with path.open("r+b") as file:
        file.seek(offset if offset >= 0 else path.stat().st_size + offset)
        file.write(data)


def change_footer(path: Path, **changes: Any) -> None:
    """Forge the footer: some fields changed, its checksum made to fit."""
    footer = Footer.unpack(path.read_bytes()[-PAGE:], path)
    overwrite_at(path, -PAGE, replace(footer, **changes).pack())


def swap_after(place: bytes, old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Return a change for :func:`forge`: the first `old` after `place` becomes `new`."""

    def change(text: bytes) -> bytes:
        at = text.index(place)
        return text[:at] + text[at:].replace(old, new, 1)

    return change


def forge(path: Path, change: Callable[[bytes], bytes], dataset: str | None = None) -> None:
    """Change the index, or another dataset of bytes, its length staying as it is, and make every checksum fit."""
    with CheckedFile(path, MODEL_KIND) as checked:
        footer = checked.footer
        entry = None if dataset is None else checked.entries[dataset]
    if entry is not None:
        new = _change_span(path, entry.offset, entry.spec.nbytes, change)
        old_sum, new_sum = (b'"crc32":%d}' % value for value in (entry.crc32, zlib.crc32(new)))
        change = lambda text: text.replace(old_sum, new_sum)  # noqa: E731
    _change_index(path, footer, change)


def change_index(path: Path, kind: str, change: Callable[[bytes], bytes]) -> None:
    """Forge the index of a file of any kind, its length staying as it is, and the footer with it."""
    with CheckedFile(path, kind) as checked:
        footer = checked.footer
    _change_index(path, footer, change)


def _change_index(path: Path, footer: Footer, change: Callable[[bytes], bytes]) -> None:
    index = _change_span(path, footer.index_offset, footer.index_size, change)
    overwrite_at(path, -PAGE, replace(footer, index_crc=zlib.crc32(index)).pack())


def _change_span(path: Path, offset: int, size: int, change: Callable[[bytes], bytes]) -> bytes:
    old = path.read_bytes()[offset : offset + size]
    new = change(old.rstrip()).ljust(size)
    assert new != old
    assert len(new) == size
    overwrite_at(path, offset, new)
    return new
