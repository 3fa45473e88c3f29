"""Checkpoints that the ``rwkv`` package converted: every version that it converts, in every type."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from checkpoints import random_checkpoint
from contracts.cases import CONFIGS, every_logits, tokens_for
from formats.converted import SETTINGS, Strategy, convert_parameters, decoded, write_converted
from formats.make_pth import NONE, text
from formats.sources import read_all
from rwkv_cy.dtypes import widen
from rwkv_cy.errors import ConfigError, FormatError, UnsupportedError
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.kernels.reference.common import layer_norm
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.inspect import inspect
from rwkv_cy.toolkit.verify import verify

pytestmark = pytest.mark.usefixtures("structure_checked_here")

Array = npt.NDArray[Any]
#: The package converts no later version.
NAMES = [name for name in CONFIGS if name.startswith(("rwkv4", "rwkv5", "rwkv6"))]
STRATEGIES = [
    Strategy("f32", "f32"),
    Strategy("f16", "f16", rescale_layer=1),
    Strategy("bf16", "bf16"),
    Strategy("f32", "i8"),
    Strategy("f16", "i8", rescale_layer=2),
]


@pytest.fixture(params=NAMES)
def parameters(request: pytest.FixtureRequest) -> dict[str, Array]:
    """A model whose halvings are the checkpoint's, without an initial state, which the package squeezes."""
    return random_checkpoint(CONFIGS[request.param], optional=False)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def read(path: Path) -> dict[str, Array]:
    return {name: widen(array, dtype, "f64") for name, (dtype, array) in read_all(open_checkpoint(path)).items()}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_tensor(tmp_path: Path, parameters: dict[str, Array], strategy: Strategy, old: bool) -> None:
    tensors = convert_parameters(parameters, strategy)
    path = write_converted(tmp_path / "m.pth", tensors, strategy.rescale_layer, old=old)
    found = read(path)
    assert set(found) == {name for name in parameters if ".ln0." not in name}
    precision = {"f32": 1e-6, "f16": 1e-3, "bf16": 8e-3}[strategy.vectors]
    for name, array in found.items():
        power = 0
        if strategy.rescale_layer and name.endswith(("att.output.weight", "ffn.value.weight")):
            power = int(name.split(".")[1]) // strategy.rescale_layer
        if tensors.get(name, ("", None))[0] == "i8":
            np.testing.assert_array_equal(array, np.ldexp(decoded(tensors, name).astype(np.float64), power))
        elif name != "emb.weight":
            # A decay near 1 has few digits of its parameter left.
            least = 1e-3 if name.endswith("time_decay") else precision * 1e-2
            np.testing.assert_allclose(array, parameters[name], rtol=precision, atol=least)
            assert array.shape == parameters[name].shape


@pytest.mark.parametrize("strategy", STRATEGIES[:2])
def test_the_logits(tmp_path: Path, name: str, strategy: Strategy) -> None:
    parameters = random_checkpoint(CONFIGS[name], optional=False)
    path = write_converted(
        tmp_path / "m.pth", convert_parameters(parameters, strategy), rescale_layer=strategy.rescale_layer
    )
    model = load(path)
    assert model.config == replace(CONFIGS[name], embedding_norm=False, rescale_layer=0)
    tokens = tokens_for(model, 20)
    logits, _ = every_logits(model, tokens)
    expected, _ = every_logits(LanguageModel(replace(CONFIGS[name], rescale_layer=0), parameters), tokens)
    tolerance = 2e-5 if strategy.vectors == "f32" else 2e-2
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_convert_and_verify(tmp_path: Path, parameters: dict[str, Array], strategy: Strategy) -> None:
    tensors = convert_parameters(parameters, strategy)
    path = write_converted(tmp_path / "m.pth", tensors, strategy.rescale_layer)
    report = inspect(path)
    assert not report.problems
    assert report.metadata["_strategy"] == "cpu fp32"
    checked = verify(path)
    assert checked.ok
    assert checked.checksums == checked.tensors
    if strategy.matrices == "i8":
        assert report.dtypes["i8"] > 0
        with pytest.raises(ConfigError, match=r"is already quantized \(\d+ matrices in i8\)"):
            convert(path, tmp_path / "q8.h5", dtype="q8")
    convert(path, tmp_path / "m.h5", dtype="f32")
    ours, theirs = load(tmp_path / "m.h5"), load(path, dtype="f32")
    tokens = tokens_for(ours, 5)
    assert every_logits(ours, tokens)[0].tobytes() == every_logits(theirs, tokens)[0].tobytes()


def test_matrices_stay_mapped(tmp_path: Path, name: str) -> None:
    tensors = convert_parameters(random_checkpoint(CONFIGS[name], optional=False), STRATEGIES[0])
    with open_checkpoint(write_converted(tmp_path / "m.pth", tensors)) as source:
        for title in ("head.weight", "blocks.1.att.key.weight"):
            assert source.info(title).shape == tensors[title][1].shape[::-1]


def test_decays_that_were_rounded(tmp_path: Path) -> None:
    """To 1 and to 0: whatever they were, the model computes with what is stored."""
    headed = [name for name in NAMES if name.startswith("rwkv5")]
    if not headed:
        pytest.skip("needs a version with decays of heads")
    tensors = convert_parameters(random_checkpoint(CONFIGS[headed[0]], optional=False), STRATEGIES[0])
    title = "blocks.0.att.time_decay"
    decay = tensors[title][1].copy()
    decay.reshape(-1)[:2] = 1, 0
    found = read(write_converted(tmp_path / "m.pth", tensors | {title: ("f32", decay)}))[title]
    assert np.isfinite(found).all()
    again = np.exp(-np.exp(found.astype(np.float32)))
    np.testing.assert_allclose(again.reshape(decay.shape), decay, rtol=1e-6)
    assert again.reshape(-1)[:2].tolist() == [1, 0]


def small(strategy: Strategy = STRATEGIES[3]) -> dict[str, tuple[str, Array]]:
    return convert_parameters(random_checkpoint(CONFIGS["rwkv4"], optional=False), strategy)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"_version": text("0.6")}, UnsupportedError, "got one converted in version '0.6'; name the original file"),
        ({"_version": text("x")}, UnsupportedError, "got one converted in version 'x'"),
        ({"_version": NONE}, UnsupportedError, "got one converted in version 'None'"),
        ({"_rescale_layer": text("-1")}, FormatError, "_rescale_layer: expected an integer, got '-1'"),
        ({"_rescale_layer": text("9" * 50)}, FormatError, "_rescale_layer: expected an integer, got '9"),
    ],
)
def test_settings(tmp_path: Path, settings: dict[str, bytes], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_checkpoint(write_converted(tmp_path / "m.pth", small(), **settings))
    assert set(settings) <= {*SETTINGS, "_rescale_layer"}


MATRIX = "blocks.0.att.key.weight"


def test_scales_that_are_missing_or_wrong(tmp_path: Path) -> None:
    tensors = small()
    for suffix in ("_rx", "_my", "_ry"):
        changed = {name: tensor for name, tensor in tensors.items() if name != f"{MATRIX}{suffix}"}
        with pytest.raises(FormatError, match=f"expected the tensor {MATRIX}{suffix} of a matrix of eight bits"):
            open_checkpoint(write_converted(tmp_path / "m.pth", changed))
    with pytest.raises(FormatError, match=f"{MATRIX}_rx: expected 96 numbers, one after another, got shape \\(3,\\)"):
        open_checkpoint(write_converted(tmp_path / "m.pth", tensors | {f"{MATRIX}_rx": ("f32", np.ones(3, "<f4"))}))
    with pytest.raises(FormatError, match=f"{MATRIX}: expected a matrix of eight bits, got shape \\(5,\\)"):
        open_checkpoint(write_converted(tmp_path / "m.pth", tensors | {MATRIX: ("i8", np.ones(5, np.uint8))}))


def test_scales_that_are_not_numbers(tmp_path: Path) -> None:
    changed = small() | {f"{MATRIX}_rx": ("f32", np.full(96, np.inf, "<f4"))}
    report = verify(write_converted(tmp_path / "m.pth", changed))
    assert any(MATRIX in problem for problem in report.problems)


def test_decays_that_cannot_be(tmp_path: Path) -> None:
    tensors = small(STRATEGIES[0])
    changed = tensors | {"blocks.0.att.time_decay": ("f32", np.ones(96, "<f4"))}
    with pytest.raises(FormatError, match=r"expected -exp\(time_decay\), which is below 0, got 1"):
        read(write_converted(tmp_path / "m.pth", changed))


def test_a_flipped_bit_in_a_scale(tmp_path: Path) -> None:
    tensors = small()
    path = write_converted(tmp_path / "m.pth", tensors)
    content = path.read_bytes()
    scale = tensors[f"{MATRIX}_rx"][1].tobytes()
    at = content.index(scale)
    path.write_bytes(content[:at] + bytes([scale[0] ^ 1]) + content[at + 1 :])
    report = verify(path)
    assert any(f"{MATRIX}_rx: expected bytes with the checksum" in problem for problem in report.problems)
    with pytest.raises(FormatError, match="expected bytes with the checksum"):
        convert(path, tmp_path / "m.h5")


def test_the_embedding_is_normalized(tmp_path: Path, name: str) -> None:
    parameters = random_checkpoint(CONFIGS[name], optional=False)
    found = read(write_converted(tmp_path / "m.pth", convert_parameters(parameters, STRATEGIES[0])))
    weight, bias = (parameters[f"blocks.0.ln0.{part}"].astype(np.float64) for part in ("weight", "bias"))
    expected = layer_norm(parameters["emb.weight"].astype(np.float64), weight, bias, 1e-5)
    np.testing.assert_allclose(found["emb.weight"], expected, atol=1e-6)
