"""Checkpoints as the ``rwkv`` package converts them, made with NumPy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from formats.make_pth import (
    NONE,
    STORAGES,
    Zip,
    archive,
    contiguous,
    dictionary,
    integer,
    legacy,
    storage,
    tensor,
    text,
)
from rwkv_cy.dtypes import to_storage, widen

Array = npt.NDArray[Any]
_KINDS = {**STORAGES, "i8": "ByteStorage"}
_LN0 = "blocks.0.ln0."


@dataclass(frozen=True)
class Strategy:
    """What the package is told.

    Attributes
    ----------
    vectors : str
        Type of everything but the matrices (``"f32"``).
    matrices : str
        ``"i8"``, or as `vectors`.
    rescale_layer : int
    """

    vectors: str
    matrices: str
    rescale_layer: int = 0


def convert_parameters(parameters: Mapping[str, Array], strategy: Strategy) -> dict[str, tuple[str, Array]]:
    """Return type and array of each tensor of the converted checkpoint; matrices are (in, out), by their strides."""
    kept = {name: array.astype(np.float32) for name, array in parameters.items() if not name.startswith(_LN0)}
    weight, bias = (parameters[f"{_LN0}{part}"].astype(np.float64) for part in ("weight", "bias"))
    rows = parameters["emb.weight"].astype(np.float64)
    centred = rows - rows.mean(1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    kept["emb.weight"] = (normed * weight + bias).astype(np.float32)
    heads = any(".ln_x." in name for name in kept)
    dynamic = any(".time_maa_x" in name for name in kept)
    result: dict[str, tuple[str, Array]] = {}
    for name, original in kept.items():
        array, title, dtype = original, name, strategy.vectors
        layer = int(name.split(".")[1]) if name.startswith("blocks.") else 0
        if strategy.rescale_layer and re.search(r"att\.output\.weight|ffn\.value\.weight", name):
            array = array / 2 ** (layer // strategy.rescale_layer)
        if ".time_" in name:
            array = array.squeeze()
        if re.search(r"(key|value|receptance|gate|output|head)\.weight", name):
            array = array.T
        if name.endswith(".time_decay"):
            dtype = "f32"
            if not heads:
                array = -np.exp(array)
            else:
                array = array if dynamic else np.exp(-np.exp(array))
                array = array.reshape(parameters[name.replace("decay", "faaaa")].shape[0], -1, 1)
        elif name.endswith((".time_first", ".time_faaaa")):
            dtype, title = "f32", name.replace("faaaa", "first")
            array = array.reshape(array.shape[0], -1, 1) if heads else array
        elif ".ln_x." in name:
            dtype = "f32"
        elif strategy.matrices == "i8" and array.ndim == 2 and not re.search("emb|_w[12]", name):
            result |= _eight_bits(title, array, strategy.vectors)
            continue
        result[title] = (dtype, to_storage(array, "f32", dtype))
    return result


def _eight_bits(name: str, w: Array, dtype: str) -> dict[str, tuple[str, Array]]:
    my, mx = np.zeros((w.shape[0], 1), np.float32), np.zeros(w.shape[1], np.float32)
    for axis in (1, 0) if w.shape[0] > w.shape[1] else (0, 1):
        least = w.min(axis, keepdims=axis == 1)
        my, mx = (least, mx) if axis else (my, least)
        w = w - least
    rx = w.max(0)
    w = w / rx
    ry = w.max(1, keepdims=True)
    codes = np.clip(np.floor(w / ry * 256), 0, 255).astype(np.uint8)
    scales = {"_mx": mx, "_rx": rx / 16, "_my": my, "_ry": ry / 16}
    return {
        name: ("i8", codes),
        **{f"{name}{suffix}": (dtype, to_storage(scale, "f32", dtype)) for suffix, scale in scales.items()},
    }


def decoded(tensors: Mapping[str, tuple[str, Array]], name: str) -> Array:
    """Return a matrix of eight bits (out, in) as the package computes with it in float32."""
    codes = tensors[name][1].astype(np.float32)
    scales = (tensors[f"{name}{suffix}"] for suffix in ("_mx", "_rx", "_my", "_ry"))
    mx, rx, my, ry = (widen(array, dtype, "f32") for dtype, array in scales)
    return ((codes + np.float32(0.5)) * ry * rx + my + mx).T


SETTINGS = {"_strategy": text("cpu fp32"), "_version": text("0.7")}


def _converted(
    tensors: Mapping[str, tuple[str, Array]], rescale_layer: int, settings: Mapping[str, bytes], *rest: bytes
) -> tuple[bytes, dict[str, tuple[int, bytes]]]:
    """Return the opcodes of a converted checkpoint, and count and bytes of its storages; matrices are by columns."""
    bodies: dict[str, bytes] = {}
    storages = {}
    for key, (name, (dtype, array)) in enumerate(tensors.items()):
        by_columns = array.ndim == 2 and not array.flags.c_contiguous
        strides = [1, array.shape[0]] if by_columns else contiguous(array.shape)
        bodies[name] = tensor(storage(_KINDS[dtype], str(key), array.size, *rest), array.shape, strides)
        storages[str(key)] = (array.size, np.ascontiguousarray(array.T if by_columns else array).tobytes())
    return dictionary({**bodies, **SETTINGS, "_rescale_layer": integer(rescale_layer), **settings}), storages


def converted_archive(tensors: Mapping[str, tuple[str, Array]], rescale_layer: int = 0, **settings: bytes) -> Zip:
    """Return a converted checkpoint as a zip archive, matrices by columns, as the package has them in memory."""
    body, storages = _converted(tensors, rescale_layer, settings)
    return archive(body, [data for _, data in storages.values()])


def write_converted(
    path: Path,
    tensors: Mapping[str, tuple[str, Array]],
    rescale_layer: int = 0,
    *,
    old: bool = False,
    **settings: bytes,
) -> Path:
    """Write a converted checkpoint as a zip archive, or as a legacy stream."""
    if old:
        path.write_bytes(legacy(*_converted(tensors, rescale_layer, settings, NONE)))
        return path
    return converted_archive(tensors, rescale_layer, **settings).write(path)
