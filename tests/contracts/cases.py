"""The models that every contract is tested with, and their reference implementations, as tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv7_shapes import SMALL, SMALL_7A
from rwkv56_shapes import SMALL_5, SMALL_6
from rwkv_cy.config import Config
from rwkv_cy.dtypes import QUANTIZED_TYPES, STORAGE_TYPES, widen
from rwkv_cy.kernels.matrix import unpack
from rwkv_cy.kernels.reference import rwkv4, rwkv5, rwkv6, rwkv7, rwkv7a, rwkv8_rc00
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.state import State
from rwkv_cy.tensors.tensor import Parameter

Array = npt.NDArray[Any]

#: float64 implementation by architecture: (parameters, config, tokens, state=None) to (logits, layers' states).
REFERENCES: dict[str, Callable[..., tuple[Array, list[dict[str, Array]]]]] = {
    "rwkv4": rwkv4.forward,
    **{f"rwkv5.{minor}": rwkv5.forward for minor in range(3)},
    "rwkv6": rwkv6.forward,
    "rwkv7": rwkv7.forward,
    "rwkv7a": rwkv7a.forward,
    "rwkv8_rc00": rwkv8_rc00.forward,
}

#: Small models by name: of every architecture one of usual widths, and one whose widths fit no vector register, with
#: the residual stream halved after the second layer.
CONFIGS = {
    "rwkv4": Config(d_model=128, num_layers=3, vocab_size=90, d_att=96, d_ffn=192),
    "rwkv4-odd": Config(d_model=35, num_layers=3, vocab_size=61, d_att=41, d_ffn=101, rescale_layer=2),
    "rwkv5.0": SMALL_5["5.0"],
    "rwkv5.1": SMALL_5["5.1"],
    "rwkv5.2": SMALL_5["5.2"],
    "rwkv5.0-odd": replace(SMALL_5["5.0, odd widths"], rescale_layer=2),
    "rwkv6": SMALL_6["6, heads of 64"],
    "rwkv6-odd": replace(SMALL_6["6, odd ranks, odd heads, odd widths"], num_layers=3, rescale_layer=2),
    "rwkv7": replace(SMALL["heads of 64"], vocab_size=90),
    "rwkv7-odd": replace(SMALL["odd heads, odd widths"], num_layers=3, rescale_layer=2),
    "rwkv7a": replace(SMALL_7A["heads of 64"], vocab_size=90),
    "rwkv7a-odd": replace(SMALL_7A["odd heads, odd widths"], num_layers=3, rescale_layer=2),
    "rwkv8_rc00": replace(SMALL["heads of 64"], vocab_size=90, architecture="rwkv8_rc00"),
    "rwkv8_rc00-odd": replace(SMALL["odd heads, odd widths"], num_layers=3, rescale_layer=2, architecture="rwkv8_rc00"),
}


@dataclass(frozen=True)
class Precision:
    """What a storage type promises.

    Attributes
    ----------
    dtype : str
        As for :func:`rwkv_cy.load`.
    tolerance : float
        Largest difference to the reference with the same weights, relative to the largest number. Products with
        quantized weights round their inputs to eight bits.
    """

    dtype: str
    tolerance: float


#: bf12 is not here: what it promises is bf16 to the last bit.
PRECISIONS = {
    precision.dtype: precision
    for precision in (
        Precision("f64", 1e-12),
        Precision("f32", 2e-5),
        Precision("f16", 2e-5),
        Precision("bf16", 2e-5),
        Precision("q8", 0.04),
        Precision("q6", 0.04),
        Precision("q4", 0.04),
        Precision("q4n", 0.04),
    )
}


#: What amplifies the rounding of inputs: in RWKV-7a the hidden vector is a product of three vectors; in RWKV-5 and 6
#: the result of a head is normalized after it was multiplied with a sum that may be nearly 0, as with the first token.
_AMPLIFIED = {"rwkv7a": 2.5, "rwkv5.0": 2.0, "rwkv5.1": 2.0, "rwkv5.2": 2.0, "rwkv6": 2.0}
#: The same of one type alone: the first token of that model has such a sum, and factors that round their inputs too.
_AMPLIFIED_IN = {("rwkv6", "q4"): 4.0}


def tolerance_of(config: Config, dtype: str) -> float:
    """Return the largest relative difference to the reference that a model of this config may have."""
    tolerance = PRECISIONS[dtype].tolerance
    if dtype not in QUANTIZED_TYPES:
        return tolerance
    version = config.architecture
    return tolerance * _AMPLIFIED_IN.get((version, dtype), _AMPLIFIED.get(version, 1.0))


def dense(parameter: Parameter) -> Array:
    """Return the numbers of a parameter in its canonical shape, float64."""
    if parameter.dtype in QUANTIZED_TYPES:
        shape = parameter.shape[::-1] if parameter.transposed else parameter.shape
        array = unpack(parameter.array, parameter.dtype, shape).astype(np.float64)
    else:
        assert parameter.dtype in STORAGE_TYPES
        array = widen(parameter.array, parameter.dtype, "f64")
    return array.T if parameter.transposed else array


def reference_forward(model: LanguageModel, tokens: list[int]) -> tuple[Array, list[dict[str, Array]]]:
    """Run the reference implementation with the model's own weights."""
    parameters = {name: dense(parameter) for name, parameter in model.parameters.items()}
    return REFERENCES[model.config.architecture](parameters, model.config, tokens)


def every_logits(
    model: LanguageModel, tokens: list[int], state: State | None = None, *, num_threads: int = 1
) -> tuple[Array, State]:
    """Return the logits after every token, and the state after the last."""
    return model.forward(tokens, state, all_logits=True, num_threads=num_threads)


def tokens_for(model: LanguageModel, count: int, seed: int = 1) -> list[int]:
    """Return random tokens."""
    tokens: list[int] = np.random.default_rng(seed).integers(model.vocab_size, size=count).tolist()
    return tokens
