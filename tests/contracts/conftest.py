"""Models of every architecture in every storage type, on every instruction set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints import random_checkpoint, write_safetensors
from contracts.cases import CONFIGS, PRECISIONS
from rwkv_cy.config import Config
from rwkv_cy.model.language_model import LanguageModel, load

#: Loads a model of CONFIGS in a storage type.
Loader = Callable[[str, str], LanguageModel]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a float32 checkpoint of each model, no parameter at its neutral value."""
    folder = tmp_path_factory.mktemp("contracts")
    return {
        name: write_safetensors(folder / f"{name}.safetensors", random_checkpoint(config))
        for name, config in CONFIGS.items()
    }


@pytest.fixture(scope="session")
def _loaded() -> dict[tuple[str, str, str], LanguageModel]:
    return {}


@pytest.fixture
def load_model(checkpoints: dict[str, Path], isa: str, _loaded: dict[tuple[str, str, str], LanguageModel]) -> Loader:
    """Return what loads a model, once for each instruction set; models have no state of their own."""

    def loader(name: str, dtype: str) -> LanguageModel:
        key = name, dtype, isa
        if key not in _loaded:
            _loaded[key] = load(checkpoints[name], dtype=dtype, rescale_layer=CONFIGS[name].rescale_layer)
        return _loaded[key]

    return loader


@pytest.fixture(params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def config(name: str) -> Config:
    return CONFIGS[name]


@pytest.fixture(params=PRECISIONS)
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(load_model: Loader, name: str, dtype: str) -> LanguageModel:
    return load_model(name, dtype)
