"""Models of every architecture whose embedding is stored as ln0 leaves it, without ln0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from checkpoints import random_checkpoint, write_safetensors
from contracts.cases import CONFIGS, every_logits, reference_forward, tokens_for
from formats.foreign import safetensors_bytes
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError, FormatError, SpecError, UnsupportedError
from rwkv_cy.kernels.reference.common import layer_norm
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.export import export
from rwkv_cy.toolkit.inspect import inspect
from rwkv_cy.toolkit.verify import verify

pytestmark = pytest.mark.usefixtures("structure_checked_here")

Array = npt.NDArray[Any]
LN0 = ("blocks.0.ln0.weight", "blocks.0.ln0.bias")


def without_ln0(config: Config, parameters: dict[str, Array]) -> LanguageModel:
    """Return the model with ln0 applied to its embedding and taken away."""
    weight, bias = (parameters[name].astype(np.float64) for name in LN0)
    embedding = parameters["emb.weight"]
    normalized = layer_norm(embedding.astype(np.float64), weight, bias, config.layer_norm_eps)
    kept = {name: array for name, array in parameters.items() if name not in LN0}
    return LanguageModel(
        replace(config, embedding_norm=False), kept | {"emb.weight": normalized.astype(embedding.dtype)}
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 2e-5), ("f64", 1e-12)])
def test_the_same_model(name: str, dtype: str, tolerance: float) -> None:
    config = replace(CONFIGS[name], compute_dtype=dtype)
    parameters = random_checkpoint(config)
    model = without_ln0(config, parameters)
    tokens = tokens_for(model, 20)
    logits, _ = every_logits(model, tokens)
    expected, _ = every_logits(LanguageModel(config, parameters), tokens)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    reference, _ = reference_forward(model, tokens)
    np.testing.assert_allclose(logits, reference, rtol=0, atol=tolerance * np.abs(reference).max())


def test_through_files(tmp_path: Path, name: str) -> None:
    model = without_ln0(CONFIGS[name], random_checkpoint(CONFIGS[name]))
    model.save(tmp_path / "m.h5")
    again = load(tmp_path / "m.h5")
    assert again.config == model.config
    tokens = tokens_for(model, 5)
    assert every_logits(again, tokens)[0].tobytes() == every_logits(model, tokens)[0].tobytes()
    assert verify(tmp_path / "m.h5").ok
    assert not inspect(tmp_path / "m.h5").problems
    convert(tmp_path / "m.h5", tmp_path / "q8.h5", dtype="q8")
    assert not load(tmp_path / "q8.h5").config.embedding_norm
    with pytest.raises(UnsupportedError, match=r"m\.h5: expected a model with ln0, got one whose embedding"):
        export(tmp_path / "m.h5", tmp_path / "m.safetensors")


def test_a_checkpoint_without_ln0_is_incomplete(tmp_path: Path, name: str) -> None:
    parameters = {key: array for key, array in random_checkpoint(CONFIGS[name]).items() if key not in LN0}
    with pytest.raises(SpecError, match=r"missing blocks\.0\.ln0\.weight .*; missing blocks\.0\.ln0\.bias"):
        load(write_safetensors(tmp_path / "s", parameters))


def test_new_models(name: str) -> None:
    model = LanguageModel.new(replace(CONFIGS[name], embedding_norm=False), 1)
    assert not any(".ln0." in parameter for parameter in model.parameters)
    assert np.isfinite(model.forward([1, 2])[0]).all()


def test_a_setting_of_another_type() -> None:
    with pytest.raises(ConfigError, match=r"Config\.embedding_norm: expected true or false, got 1"):
        Config(8, 1, embedding_norm=1)  # type: ignore[arg-type]


def test_a_file_cannot_call_its_embedding_normalized(tmp_path: Path, name: str) -> None:
    parameters = {key: array for key, array in random_checkpoint(CONFIGS[name]).items() if key not in LN0}
    path = tmp_path / "s"
    path.write_bytes(safetensors_bytes(parameters, {"normalized_embedding": "true"}))
    with pytest.raises(FormatError, match=r"missing blocks\.0\.ln0\.weight"):
        load(path)
