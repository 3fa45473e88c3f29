"""Small checkpoints and models for tests: written by hand, or random."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from formats.foreign import rwkv4_parameters, safetensors_bytes
from rwkv_cy.architectures import architecture_of
from rwkv_cy.architectures.base import ParameterSpec
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
    config = Config(**{"d_model": 24, "num_layers": 3, "vocab_size": 50, **dimensions}, compute_dtype=dtype)
    rng = np.random.default_rng(seed)
    model = LanguageModel.new(config, rng)
    return LanguageModel(
        config,
        {name: (rng.standard_normal(p.shape) * 0.4).astype(p.array.dtype) for name, p in model.parameters.items()},
    )


def random_checkpoint(config: Config, seed: int = 0, *, optional: bool = True) -> dict[str, Array]:
    """Return every parameter of the config's architecture, none at its neutral value, in the config's type.

    Vectors are drawn around their initial values, which differ by channel and layer, and matrices so that the sums
    of a row have the size of its inputs. `optional` says whether parameters that a checkpoint may leave out are there.
    """
    return {name: array.copy() for name, array in _drawn(config, seed, optional).items()}


@lru_cache(maxsize=2)
def _drawn(config: Config, seed: int, optional: bool) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    dtype = np.float64 if config.compute_dtype == "f64" else np.float32
    specs = [spec for spec in architecture_of(config).parameters(config) if optional or not spec.optional]
    return {spec.name: _draw(spec, rng).astype(dtype) for spec in specs}


def _draw(spec: ParameterSpec, rng: np.random.Generator) -> Array:
    if spec.kind == "vector":
        return spec.initialise(rng) + 0.2 * rng.standard_normal(spec.shape)
    scale = {"embedding": 1.0, "state": 0.3, "table": 0.5}.get(spec.kind)
    if scale is None:
        inputs = spec.shape[0 if spec.orientation == "in_out" else 1]
        scale = inputs**-0.5
    return scale * rng.standard_normal(spec.shape)
