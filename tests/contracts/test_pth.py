"""PyTorch checkpoints of every architecture, as trainers save them: the same model in each of their forms."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from checkpoints import random_checkpoint
from contracts.cases import CONFIGS, every_logits, tokens_for
from formats.make_pth import (
    NONE,
    STORAGES,
    archive,
    call,
    contiguous,
    dictionary,
    integer,
    legacy,
    name,
    parameter,
    storage,
    tensor,
)
from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.errors import FormatError
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.inspect import inspect

Array = npt.NDArray[Any]
#: From the opcodes of tensors by name to those of the whole object.
Nesting = Callable[[dict[str, bytes]], bytes]


def _with_prefix(prefix: str, tensors: dict[str, bytes]) -> dict[str, bytes]:
    return {prefix + title: opcodes for title, opcodes in tensors.items()}


def _deepspeed(tensors: dict[str, bytes]) -> bytes:
    size = call(name("torch", "Size"), b"(" + integer(3) + b"t")
    shapes = dictionary({"shapes": b"]" + size + b"a"})
    return dictionary({"module": dictionary(_with_prefix("module.", tensors)), "param_shapes": shapes})


def _lightning(tensors: dict[str, bytes]) -> bytes:
    beside = {"epoch": integer(3), "loops": dictionary({}), "callbacks": NONE}
    return dictionary({**beside, "state_dict": dictionary(_with_prefix("_forward_module.", tensors))})


def _compiled(tensors: dict[str, bytes]) -> bytes:
    parameters = {title: parameter(opcodes) for title, opcodes in tensors.items()}
    return dictionary({"run": dictionary({"model": dictionary(_with_prefix("_orig_mod.model.", parameters))})})


NESTINGS: dict[str, Nesting] = {
    "plain": dictionary,
    "deepspeed": _deepspeed,
    "lightning": _lightning,
    "compiled": _compiled,
}


def _write(path: Path, parameters: dict[str, Array], nesting: Nesting, *, old: bool, columns: bool) -> Path:
    """Write parameters as a zip archive or a legacy stream, matrices column by column if `columns`."""
    bodies, storages = {}, {}
    for key, (title, array) in enumerate(parameters.items()):
        stored = storage(STORAGES["f32"], str(key), array.size, *([NONE] if old else []))
        strides = contiguous(array.shape)
        if columns and array.ndim == 2:
            strides = [1, array.shape[0]]
        data = np.ascontiguousarray(array.T if columns and array.ndim == 2 else array).tobytes()
        bodies[title] = tensor(stored, array.shape, strides)
        storages[str(key)] = (array.size, data)
    body = nesting(bodies)
    if old:
        path.write_bytes(legacy(body, storages))
        return path
    return archive(body, [data for _, data in storages.values()]).write(path)


def test_the_cases_cover_every_architecture() -> None:
    assert {config.architecture for config in CONFIGS.values()} == set(ARCHITECTURES)


@pytest.fixture(scope="module")
def expected(checkpoints: dict[str, Path]) -> Callable[[str], tuple[LanguageModel, bytes]]:
    """Return what gives a model of the same parameters as safetensors, and its logits."""

    @cache
    def of(name: str) -> tuple[LanguageModel, bytes]:
        model = load(checkpoints[name], rescale_layer=CONFIGS[name].rescale_layer)
        return model, every_logits(model, tokens_for(model, 5))[0].tobytes()

    return of


@pytest.mark.parametrize("columns", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("nesting", NESTINGS)
def test_every_form_is_the_same_model(
    tmp_path: Path,
    expected: Callable[[str], tuple[LanguageModel, bytes]],
    name: str,
    nesting: str,
    old: bool,
    columns: bool,
) -> None:
    parameters = random_checkpoint(CONFIGS[name])
    path = _write(tmp_path / "model.pth", parameters, NESTINGS[nesting], old=old, columns=columns)
    model = load(path, rescale_layer=CONFIGS[name].rescale_layer)
    same, logits = expected(name)
    assert model.config == same.config
    assert model.fingerprint == same.fingerprint
    assert every_logits(model, tokens_for(model, 5))[0].tobytes() == logits
    assert not inspect(path).problems


def test_a_file_of_columns_is_converted(tmp_path: Path, checkpoints: dict[str, Path], name: str) -> None:
    path = _write(tmp_path / "model.pth", random_checkpoint(CONFIGS[name]), _compiled, old=False, columns=True)
    targets = tmp_path / "ours.h5", tmp_path / "theirs.h5"
    for source, target in zip((path, checkpoints[name]), targets, strict=True):
        convert(source, target, dtype="bf16")
    tokens = tokens_for(load(targets[0]), 5)
    ours, theirs = (every_logits(load(target), tokens)[0] for target in targets)
    assert ours.tobytes() == theirs.tobytes()


def test_a_prefix_that_only_some_have_stays(tmp_path: Path, name: str) -> None:
    parameters = random_checkpoint(CONFIGS[name])
    some = {f"module.{title}" if ".ln2." in title else title: array for title, array in parameters.items()}
    path = _write(tmp_path / "model.pth", some, dictionary, old=False, columns=False)
    with pytest.raises(FormatError, match=r"unexpected module\.blocks\.0\.ln2\.weight"):
        load(path)


def test_two_tensors_for_one_parameter(tmp_path: Path, name: str) -> None:
    parameters = random_checkpoint(CONFIGS[name])
    wrapped = _write(
        tmp_path / "model.pth",
        {f"module.{title}": array for title, array in parameters.items()} | {"head.weight": parameters["head.weight"]},
        dictionary,
        old=False,
        columns=False,
    )
    with pytest.raises(FormatError, match=r"got (module\.)?head\.weight and (module\.)?head\.weight, which are"):
        load(wrapped)
