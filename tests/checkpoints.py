"""Small checkpoints and models for tests: written by hand, or random."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from formats.foreign import rwkv4_parameters, safetensors_bytes
from rwkv_cy.config import Config
from rwkv_cy.model.language_model import LanguageModel

Array = npt.NDArray[Any]


def small_parameters(vocab: int = 256) -> dict[str, Array]:
    """A small RWKV-4 of two layers, float32."""
    return rwkv4_parameters(vocab=vocab)


def write_safetensors(path: Path, parameters: Mapping[str, Array]) -> Path:
    """Write parameters as a safetensors file and return its path."""
    path.write_bytes(safetensors_bytes(parameters))
    return path


def write_small(path: Path, vocab: int = 256, **replaced: Array) -> Path:
    """Write the small model, some of its tensors replaced, with `__` for the dots of their names."""
    parameters = small_parameters(vocab) | {name.replace("__", "."): array for name, array in replaced.items()}
    return write_safetensors(path, parameters)


def numbers(*values: float, shape: tuple[int, ...], fill: float = 0.25) -> Array:
    """Return a float32 array that begins with `values`."""
    array = np.full(shape, fill, np.float32)
    array.reshape(-1)[: len(values)] = values
    return array


def random_model(dtype: str = "f32", seed: int = 0, **dimensions: int) -> LanguageModel:
    """Return a small model with random weights everywhere, the ones that start at zero too."""
    config = Config(**{"d_model": 24, "num_layers": 3, "vocab_size": 50, **dimensions}, dtype=dtype)
    rng = np.random.default_rng(seed)
    model = LanguageModel.new(config, rng)
    return LanguageModel(
        config,
        {name: (rng.standard_normal(p.shape) * 0.4).astype(p.array.dtype) for name, p in model.parameters.items()},
    )
