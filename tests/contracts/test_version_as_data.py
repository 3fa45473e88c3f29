"""A version defined outside the package works throughout, and the shared modules do not name any version."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import random_checkpoint, write_safetensors
from contracts.cases import every_logits, tokens_for
from rwkv_cy.architectures import ARCHITECTURES, ParameterSpec, register
from rwkv_cy.architectures.base import Shapes
from rwkv_cy.architectures.rwkv4 import RWKV4
from rwkv_cy.config import Config
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.model.state import State
from rwkv_cy.tensors.tensor import Parameter
from rwkv_cy.toolkit.bench import benchmark
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.inspect import inspect
from rwkv_cy.toolkit.perplexity import perplexity
from rwkv_cy.toolkit.verify import verify

pytestmark = pytest.mark.usefixtures("structure_checked_here")

PACKAGE = Path(__file__).resolve().parents[2] / "rwkv_cy"

#: Parts of names, ours and those of the version that the test defines.
RENAMED = (("att.", "mixing.over_time."), ("ffn.", "mixing.over_channels."))


def renamed(name: str) -> str:
    """Return the name of a parameter of RWKV-4 in the version that the test defines."""
    for ours, theirs in RENAMED:
        name = name.replace(ours, theirs)
    return name


def original(name: str) -> str:
    """Return the name in RWKV-4 of a parameter of the version that the test defines."""
    for ours, theirs in RENAMED:
        name = name.replace(theirs, ours)
    return name


class Renamed(RWKV4):
    """RWKV-4 with other names for its parameters."""

    name = "renamed"
    label = "RWKV-4 renamed"

    def matches(self, shapes: Shapes) -> bool:
        return any("mixing.over_time." in name for name in shapes)

    def config(self, shapes: Shapes, where: str) -> Config:
        return super().config({original(name): shape for name, shape in shapes.items()}, where)

    def layer_parameters(self, config: Config, layer: int) -> tuple[ParameterSpec, ...]:
        return tuple(replace(spec, name=renamed(spec.name)) for spec in super().layer_parameters(config, layer))

    def time_mix(
        self, config: Config, layer: int, parameters: Mapping[str, Parameter], output_scale: float, activations: str
    ) -> Any:
        own = {original(name): parameter for name, parameter in parameters.items()}
        return super().time_mix(config, layer, own, output_scale, activations)

    def channel_mix(
        self, config: Config, layer: int, parameters: Mapping[str, Parameter], output_scale: float, activations: str
    ) -> Any:
        own = {original(name): parameter for name, parameter in parameters.items()}
        return super().channel_mix(config, layer, own, output_scale, activations)


CONFIG = Config(d_model=128, num_layers=2, vocab_size=256, d_att=96, d_ffn=160, architecture=Renamed.name)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register(Renamed())
    yield
    del ARCHITECTURES[Renamed.name]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "renamed.safetensors", random_checkpoint(CONFIG))


@pytest.fixture
def original_model() -> LanguageModel:
    """Return the RWKV-4 of the same numbers."""
    parameters = {original(name): array for name, array in random_checkpoint(CONFIG).items()}
    return LanguageModel(replace(CONFIG, architecture="rwkv4"), parameters)


def test_load_and_forward(checkpoint: Path, original_model: LanguageModel) -> None:
    model = load(checkpoint)
    assert model.config == CONFIG
    tokens = tokens_for(model, 30)
    logits, state = every_logits(model, tokens)
    expected, expected_state = every_logits(original_model, tokens)
    assert logits.tobytes() == expected.tobytes()
    assert state.data.tobytes() == expected_state.data.tobytes()
    assert state.architecture == "renamed"


def test_batch(checkpoint: Path) -> None:
    model = load(checkpoint)
    sequences = [[1, 2, 3], [4], tokens_for(model, 9)]
    logits, states = model.forward_batch(sequences)
    for row, state, tokens in zip(logits, states, sequences, strict=True):
        expected, expected_state = model.forward(tokens)
        assert row.tobytes() == expected.tobytes()
        assert state == expected_state


@pytest.mark.parametrize("dtype", [None, "bf16", "bf12", "q8", "q4"])
def test_convert_inspect_verify(tmp_path: Path, checkpoint: Path, dtype: str | None) -> None:
    path = tmp_path / "model.h5"
    convert(checkpoint, path, dtype=dtype)
    assert verify(path).ok
    for file in (checkpoint, path):
        report = inspect(file, stats=True)
        assert not report.problems
        assert report.architecture == "RWKV-4 renamed"
        assert report.config == CONFIG
    model = load(path)
    if dtype is not None:
        assert dtype in {parameter.dtype for parameter in model.parameters.values()}
    assert np.isfinite(model.forward([1, 2])[0]).all()


def test_generate_and_perplexity(checkpoint: Path, original_model: LanguageModel) -> None:
    model = load(checkpoint, tokenizer="bytes")
    generation = model.generate("In the", max_tokens=12, temperature=0)
    "".join(generation)
    expected = original_model.generate("In the", max_tokens=12, temperature=0, tokenizer=model.tokenizer)
    "".join(expected)
    assert len(generation.tokens) == 12
    assert generation.tokens == expected.tokens
    text = b"And God said, Let there be light"
    assert perplexity(model, text).nats == perplexity(original_model, list(text)).nats


def test_a_state_through_a_file(tmp_path: Path, checkpoint: Path) -> None:
    model = load(checkpoint)
    _, state = model.forward([1, 2, 3])
    state.save(tmp_path / "state.h5")
    loaded = State.load(tmp_path / "state.h5")
    assert loaded == state
    assert model.forward(4, loaded)[0].tobytes() == model.forward(4, state)[0].tobytes()


def test_a_new_model_and_a_benchmark(checkpoint: Path) -> None:
    model = LanguageModel.new(CONFIG, 0)
    assert np.isfinite(model.forward([1, 2])[0]).all()
    report = benchmark(checkpoint, threads=1, prefill=4, decode=2, rounds=1)
    assert report.to_dict()


#: Files that may name versions: those of a version, the registries of Python and of C, the layouts of other projects.
OWN = re.compile(
    r"(.*/)?r?wkv[4-9][^/]*|architectures/registry\.py|formats/layouts/.*|kernels/csrc/wkv/(versions|bodies)\.h"
)


def naming(pattern: str, *suffixes: str) -> set[str]:
    """Return the files of the package with these suffixes in which the pattern occurs."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.suffix in suffixes and re.search(pattern, path.read_text("utf-8"), re.IGNORECASE)
    }


@pytest.mark.parametrize(
    ("pattern", "suffixes", "example"),
    [
        # Names that end so, or go on with -g1, are of other projects' models and repositories; examples of commands
        # have a user's choice after --new. RWKV-4 is the default of a Config.
        ("(?<![a-z/])(?<!--new )rwkv_?[5-9](?!-g1)", (".py", ".pyi"), "architectures/rwkv7.py"),
        ("(?<![a-z])r?wkv[ _-]?[4-9]", (".pyx", ".pxd", ".c", ".h"), "kernels/csrc/wkv/wkv4_body.h"),
    ],
)
def test_no_other_file_of_the_package_names_a_version(pattern: str, suffixes: tuple[str, ...], example: str) -> None:
    """Versions are known to their own files, to the registries, and to the layouts of other projects' files."""
    files = naming(pattern, *suffixes)
    assert example in files
    assert {name for name in files if not OWN.fullmatch(name)} == set()
