"""What a run learns: a whole model, its initial state, or low-rank adapters of its matrices."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from rwkv_cy.architectures import architecture_of
from rwkv_cy.architectures.base import ParameterSpec
from rwkv_cy.config import Config
from rwkv_cy.dtypes import widen
from rwkv_cy.errors import ConfigError, UnsupportedError
from rwkv_cy.model.encoder import Model
from rwkv_cy.model.gradients import LoRA
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.tensors.reading import decode_rows
from rwkv_cy.tensors.tensor import Parameter

__all__ = ["METHODS", "FullMethod", "LoraMethod", "Method", "StateMethod"]

Array = npt.NDArray[Any]

_MOST_RANK = 4096

#: A model in training does not have states that are kept, so that it needs no digest of its parameters.
_FINGERPRINT = "0" * 64


class Method(ABC):
    """What is learned of a model, and how its values make the model that runs.

    Parameters
    ----------
    base : LanguageModel
        Its parameters are not modified.

    Attributes
    ----------
    values : dict of str to numpy.ndarray
        What is learned, by name: float32, or float64 for a model that computes in it. The optimiser updates them in
        place.
    kept : dict of str to Parameter
        Parameters of the base that are part of the model as they are.
    """

    name: ClassVar[str]

    def __init__(self, base: LanguageModel) -> None:
        self.config, self.tokenizer = base.config, base.tokenizer
        self._base_fingerprint = base.fingerprint
        self._base_types = sorted({parameter.dtype for parameter in base.parameters.values()})
        self.dtype = np.dtype(np.float64 if base.config.compute_dtype == "f64" else np.float32)
        self.values: dict[str, Array] = {}
        self.kept = dict(base.parameters)
        self._before: Model | None = None

    @property
    def trainable(self) -> list[str] | None:
        """Names of the parameters that get gradients; None stands for the factors of the adapters."""
        return list(self.values) if self.adapters is None else None

    @property
    def adapters(self) -> Mapping[str, LoRA] | None:
        """Adapters by the name of their matrix, for :meth:`rwkv_cy.LanguageModel.record`."""
        return None

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on beside texts and options, ready for JSON."""
        config = self.config
        return {
            "method": self.name,
            "architecture": config.architecture,
            "num_layers": config.num_layers,
            "d_model": config.d_model,
            "d_ffn": config.d_ffn,
            "head_size": config.head_size,
            "vocab_size": config.vocab_size,
            "types": self._base_types,
            "model": self._base_fingerprint,
        }

    def recorded(self) -> LanguageModel:
        """Return the model whose passes are recorded: the present one, but for adapters.

        It takes over the memory of the one before, whose passes must have ended.
        """
        model = self.model()
        if self._before is not None:
            model.encoder.use_memory_of(self._before)
        self._before = model.encoder
        return model

    @abstractmethod
    def changed(self) -> Mapping[str, Parameter | Array]:
        """Return the parameters that replace those of the base."""

    def model(self) -> LanguageModel:
        """Return the model that the present values make."""
        return LanguageModel(self.config, {**self.kept, **self.changed()}, self.tokenizer, _FINGERPRINT)

    def tensors(self) -> dict[str, Array]:
        """Return what a file of the result holds, by the authors' names."""
        return self.values


class FullMethod(Method):
    """All parameters. The base is not referred to any more, so that it may be freed."""

    name = "full"

    def __init__(self, base: LanguageModel) -> None:
        super().__init__(base)
        specs = architecture_of(self.config).parameters(self.config)
        # Optional ones, as v0 to v2 of the first layer, are not read, or are another method's.
        self.values = {
            spec.name: _numbers(base.parameters[spec.name], self.dtype) for spec in specs if not spec.optional
        }
        self.kept = {name: parameter for name, parameter in self.kept.items() if name not in self.values}

    def changed(self) -> Mapping[str, Parameter | Array]:
        """Return all values."""
        return self.values


class StateMethod(Method):
    """The state that a sequence begins with (``time_state``): a few megabytes, and the model stays as it is.

    Raises
    ------
    UnsupportedError
        If the version does not have one.
    """

    name = "state"

    def __init__(self, base: LanguageModel) -> None:
        super().__init__(base)
        specs = _specs(self.config, "state")
        if not specs:
            raise UnsupportedError(
                f"{architecture_of(self.config).label}: expected a version whose initial state can be tuned (5.0 and "
                "later); choose --method lora or full"
            )
        self.base, own = base, self.kept  # a model that is mapped from a file stays open
        self.values = {
            spec.name: _numbers(own[spec.name], self.dtype) if spec.name in own else np.zeros(spec.shape, self.dtype)
            for spec in specs
        }

    def changed(self) -> Mapping[str, Parameter | Array]:
        """Return the states."""
        return self.values


class LoraMethod(Method):
    """Low-rank adapters: ``W + alpha / rank * B A`` for the matrices of all layers.

    Parameters
    ----------
    base : LanguageModel
    rank : int, default 8
    alpha : float, default 32
    seed : int, default 0
        Of the first factor, which is uniform as a linear layer of torch; the second one is zero.

    Raises
    ------
    ConfigError
        If rank or alpha is out of its range.
    """

    name = "lora"

    def __init__(self, base: LanguageModel, *, rank: int = 8, alpha: float = 32.0, seed: int = 0) -> None:
        super().__init__(base)
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= _MOST_RANK:
            raise ConfigError(f"rank: expected an integer from 1 to {_MOST_RANK}, got {rank!r}")
        if not (isinstance(alpha, (int, float)) and 0 < alpha < math.inf):
            raise ConfigError(f"alpha: expected a number above 0, got {alpha!r}")
        self.base, self.rank, self.alpha = base, rank, float(alpha)
        rng = np.random.default_rng([seed, 0x10A])
        self._adapters: dict[str, LoRA] = {}
        for spec in _specs(self.config, "matrix"):
            outputs, inputs = spec.shape if spec.orientation == "out_in" else spec.shape[::-1]
            bound = 1 / math.sqrt(inputs)
            a = rng.uniform(-bound, bound, (rank, inputs)).astype(self.dtype)
            b = np.zeros((outputs, rank), self.dtype)
            self._adapters[spec.name] = LoRA(a, b, alpha / rank)
            module = spec.name.removesuffix(".weight")
            self.values |= {f"{module}.lora_A": a, f"{module}.lora_B": b}

    @property
    def adapters(self) -> Mapping[str, LoRA] | None:
        """One adapter for each matrix of the layers."""
        return self._adapters

    def identity(self) -> dict[str, Any]:
        """Return that of all methods, and rank and alpha."""
        return {"rank": self.rank, "alpha": self.alpha, **super().identity()}

    def recorded(self) -> LanguageModel:
        """Return the base, whose matrices keep their stored type."""
        return self.base

    def changed(self) -> Mapping[str, Parameter | Array]:
        """Return the sums of matrices and adapters."""
        return {
            name: _numbers(self.kept[name], self.dtype) + self.dtype.type(own.scale) * (own.b @ own.a)
            for name, own in self._adapters.items()
        }


METHODS: Mapping[str, type[Method]] = {method.name: method for method in (StateMethod, LoraMethod, FullMethod)}


def _specs(config: Config, kind: str) -> list[ParameterSpec]:
    return [spec for spec in architecture_of(config).parameters(config) if spec.kind == kind]


def _numbers(parameter: Parameter, dtype: np.dtype[Any]) -> Array:
    """Return a parameter as a new array of numbers, in its canonical shape."""
    target = "f64" if dtype == np.float64 else "f32"
    array, stored = parameter.array, parameter.dtype
    if parameter.matrix_shape is not None:
        codec, (rows, columns) = parameter.codec, parameter.matrix_shape
        shape = (columns, rows) if parameter.transposed else (rows, columns)
        array, stored = decode_rows(codec, array.reshape(-1), shape), codec.numbers
    if parameter.transposed:
        array = array.T
    return np.array(widen(np.ascontiguousarray(array), stored, target), dtype)
