"""Fuzz targets of the toolkit: adapters that are merged, parts that are joined, models that are inspected."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np

from formats.foreign import (
    rwkv4_parameters,
    rwkv5_parameters,
    rwkv6_parameters,
    rwkv7_parameters,
    safetensors_bytes,
)
from fuzz import repair
from fuzz.reading import read_once, scratch_folder, written
from fuzz.target import Target
from rwkv_cy.architectures import architecture_of
from rwkv_cy.checkpoint.checkpoint import Checkpoint, open_source
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.state_files import load_state
from rwkv_cy.toolkit.adapter_fit import AdapterOptions, fit
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.inspect import inspect
from rwkv_cy.toolkit.merged_source import MergedSource
from rwkv_cy.toolkit.parts import join

_ALPHA, _HALF, _ROWS, _COLUMNS = 1, 2, 4, 8  # bits of the byte in front of an adapter


def _draw(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.linspace(-1, 1, int(np.prod(shape)), dtype="<f4").reshape(shape)


@cache
def _base() -> Checkpoint:
    """Return a model of two heads of four channels, open for as long as the process runs."""
    path = scratch_folder() / "base.safetensors"
    path.write_bytes(safetensors_bytes(rwkv7_parameters(4, (2, 4), 1)))
    return Checkpoint.open(path)


_KEY, _VALUE = "blocks.0.att.key", "blocks.0.ffn.value"
_ADAPTERS = (
    (_ALPHA, {f"{_KEY}.lora_A": _draw(2, 8), f"{_KEY}.lora_B": _draw(8, 2), "ln_out.bias": _draw(8)}),
    (_ALPHA, {f"{_VALUE}.weight.lora.0": _draw(32, 2), f"{_VALUE}.weight.lora.1": _draw(8, 2)}),
    (_HALF, {"blocks.0.att.time_state": _draw(2, 4, 4), "blocks.0.ln1.weight": _draw(8)}),
    (0, {f"{_KEY}.disha": _draw(3, 8), f"{_VALUE}.disha": _draw(8, 4, 4)}),
    (0, {f"{_VALUE}.bone": _draw(8, 2)}),
    (_ROWS, {f"{_KEY}.bone": _draw(2, 4, 4)}),
    (_COLUMNS, {f"base_model.model.{_KEY}.bone": _draw(2, 4, 4)}),
)


def _read_adapter(data: bytes) -> None:
    """Fit an adapter, whose first byte has the options, to a model, and read the model that comes of it."""
    bits = data[0] if data else 0
    options = AdapterOptions(
        16.0 if bits & _ALPHA else None,
        0.5 if bits & _HALF else 1.0,
        "rows" if bits & _ROWS else "columns" if bits & _COLUMNS else None,
    )
    base = _base()
    specs = {spec.name: spec for spec in architecture_of(base.config).parameters(base.config)}
    with written(data[1:], "adapter") as path, open_source(path) as adapter:
        shapes = {name: adapter.info(name).shape for name in adapter.names()}
        changes = fit(specs, {"adapter": shapes}, options, str(path))
        merged = MergedSource(base.source, {"adapter": adapter}, changes, dict.fromkeys(changes, "f32"))
        for name in changes:
            info = merged.info(name)
            whole = np.empty(info.size, "<f4")
            merged.read_into(name, whole)
            part = np.empty(info.size - info.size // 3, "<f4")
            merged.read_into(name, part, info.size // 3)
            if info.shape != specs[name].shape or not np.array_equal(part, whole[info.size // 3 :], equal_nan=True):
                raise AssertionError(f"{name}: a part differs from the whole, or from its shape {info.shape}")


def _repaired_adapter(data: bytes) -> bytes:
    return data[:1] + repair.safetensors(data[1:])


_PARTS = {f"m.h5.{number:05}-of-00002": bytes([number]) * 10 * number for number in (1, 2)}


def _lists() -> tuple[bytes, ...]:
    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    whole = b"".join(_PARTS.values())
    parts = [{"name": name, "size": len(data), "sha256": digest(data)} for name, data in _PARTS.items()]
    content = {"format": "rwkv-cy-parts", "version": 1, "name": "m.h5", "size": len(whole)}
    return (json.dumps({**content, "sha256": digest(whole), "parts": parts}, indent=1).encode(),)


@cache
def _parts_folder() -> Path:
    folder = scratch_folder() / "parts"
    folder.mkdir()
    for name, data in _PARTS.items():
        (folder / name).write_bytes(data)
    return folder


def _join(data: bytes) -> None:
    """Join the parts that a list names: the result is the original, and nothing else is written."""
    folder = _parts_folder()
    target = folder / "joined"
    (folder / "m.h5.parts.json").write_bytes(data)
    try:
        join(folder / "m.h5.parts.json", target)
        if target.read_bytes() != b"".join(_PARTS.values()):
            raise AssertionError("other bytes were joined")
    finally:
        target.unlink(missing_ok=True)
    if {path.name for path in folder.iterdir()} != {"m.h5.parts.json", *_PARTS}:
        raise AssertionError(f"{sorted(path.name for path in folder.iterdir())} in the folder")


@cache
def _models() -> tuple[bytes, ...]:
    """Return a model of every main version, as small as their shapes allow, and one as model file."""
    foreign = tuple(
        safetensors_bytes(parameters)
        for parameters in (
            rwkv4_parameters(2, 4, 1, 4),
            rwkv5_parameters("5.0", (1, 4), 1),
            rwkv5_parameters("5.2", (2, 2), 1),
            rwkv6_parameters((2, 2), 1),
            rwkv7_parameters(2, (2, 2), 1),
        )
    )
    return (*foreign, _converted(foreign[0]))


def _converted(data: bytes) -> bytes:
    target = scratch_folder() / "converted.h5"
    with written(data, "foreign") as path:
        convert(path, target)
    found = target.read_bytes()
    target.unlink()
    return found


@cache
def _small_model() -> LanguageModel:
    return LanguageModel.new(_base().config, np.random.default_rng(0))


def _load_tuned_state(data: bytes) -> None:
    """Load a state-tuned checkpoint: the state has the numbers of the file, and can be continued."""
    model = _small_model()
    with written(data) as path:
        state = load_state(model, path)
    if state.data.shape != model.initial_state().data.shape or not state.data.flags.writeable:
        raise AssertionError(f"{state!r}")


def _inspect(data: bytes) -> None:
    """Inspect a model of any format; the answer can be written as JSON."""
    with written(data) as path:
        json.dumps(inspect(path).to_dict(), allow_nan=False)


def _open_model(data: bytes) -> None:
    """Tell the version and dimensions of a model from its tensors, which have the shapes of its parameters; read it."""
    with written(data) as path, Checkpoint.open(path) as checkpoint:
        if checkpoint.config.vocab_size < 1:
            raise AssertionError(f"{checkpoint.config}")
        shapes = checkpoint.shapes
        for spec in checkpoint.specs:
            if shapes[spec.name] != spec.shape:
                raise AssertionError(f"{spec}: {shapes[spec.name]}")
        read_once(checkpoint.source)


_NAMES = tuple(
    b'"%s"' % name.encode()
    for name in (
        *("emb.weight", "head.weight", "ln_out.bias", "blocks.0.att.time_decay", "blocks.0.att.r_k"),
        *("blocks.0.att.time_faaaa", "blocks.0.att.w1", "blocks.0.att.v0", "blocks.1.ffn.key.weight"),
    )
)
_SUFFIXES = (b".lora_A", b".lora_B", b".init_lora_A", b".lora.0", b".lora.1", b".bone", b".disha", b".default.weight")
TARGETS = (
    Target(
        "adapter",
        lambda: tuple(bytes([bits]) + safetensors_bytes(tensors) for bits, tensors in _ADAPTERS),
        _read_adapter,
        _repaired_adapter,
        (*_SUFFIXES, b'"F32"', b'"F16"', b"base_model.model.", b"blocks.0.att.time_state"),
    ),
    Target("parts", _lists, _join, words=(b"rwkv-cy-parts", b'"sha256":', b'"size":', b'"name":', b".00001-of-00002")),
    Target(
        "tuned-state",
        lambda: tuple(
            safetensors_bytes({"blocks.0.att.time_state": _draw(2, 4, 4).astype(dtype)}) for dtype in ("<f4", "<f2")
        ),
        _load_tuned_state,
        repair.safetensors,
        (b'"F16"', b'"BF16"', b'"F64"', b"blocks.0.att.time_state", b"blocks.1.att.time_state"),
    ),
    Target("model", _models, _open_model, repair.by_content, _NAMES),
    Target("inspect", _models, _inspect, repair.by_content, _NAMES),
)
