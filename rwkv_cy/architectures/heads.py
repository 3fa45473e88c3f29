"""What versions with a matrix-valued state share: heads and ranks of a config, the state and its tuned beginning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkv_cy.architectures.base import Architecture, ParameterSpec, StateField
from rwkv_cy.architectures.builders import constant
from rwkv_cy.config import Config
from rwkv_cy.dtypes import widen
from rwkv_cy.errors import ConfigError, SpecError
from rwkv_cy.tensors.tensor import Parameter

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["HeadsArchitecture", "check_heads", "completed_head_size", "heads", "known_ranks", "required_ranks"]

#: Head size of every released model, and a bound: a state has d_att times head_size numbers a layer.
_HEAD_SIZE, _LARGEST_HEAD = 64, 1024


def check_heads(name: str, count: int, size: int, d_att: int, where: str) -> None:
    """Raise SpecError unless heads of that count and size, as the tensor `name` has them, fill `d_att` channels."""
    if size > _LARGEST_HEAD:
        raise SpecError(f"{where}: {name}: expected heads of at most {_LARGEST_HEAD} channels, got {size}")
    if count * size != d_att:
        raise SpecError(
            f"{where}: {name}: expected (heads, head size) of product {d_att}, the rows of "
            f"blocks.0.att.receptance.weight, got ({count}, {size}); the file is not a whole, unchanged model"
        )


def completed_head_size(config: Config) -> int:
    """Return the head size of a config, that of the released models where it leaves it open.

    Raises
    ------
    ConfigError
        If the heads do not fill d_att.
    """
    head_size = config.head_size or _HEAD_SIZE
    if config.d_att % head_size:
        raise ConfigError(
            f"Config.d_att: expected a multiple of head_size {head_size}, got {config.d_att}; "
            "give a head_size that divides it"
        )
    return head_size


def heads(config: Config) -> tuple[int, int]:
    """Return the number of heads and their size, of a complete config.

    Raises
    ------
    ConfigError
        If it leaves the head size open, or the heads do not fill d_att.
    """
    if not config.head_size or config.d_att % config.head_size:
        raise ConfigError(
            f"Config.head_size: expected a divisor of d_att {config.d_att}, got {config.head_size}; "
            "complete the config, or give one"
        )
    return config.d_att // config.head_size, config.head_size


def known_ranks(config: Config, names: Sequence[str]) -> None:
    """Raise ConfigError if a rank has another name than these."""
    unknown = sorted(set(config.ranks) - set(names))
    if unknown:
        known = f"names among {', '.join(names)}" if names else "none"
        raise ConfigError(f"Config.ranks: expected {known}, got {', '.join(unknown)}")


def required_ranks(config: Config, names: Sequence[str]) -> None:
    """Raise ConfigError if a rank of these names is missing."""
    missing = [name for name in names if name not in config.ranks]
    if missing:
        raise ConfigError(
            f"Config.ranks: expected {', '.join(names)}, missing {', '.join(missing)}; "
            "complete the config, or give them"
        )


class HeadsArchitecture(Architecture):
    """A version whose state is a matrix for each head, and may begin with a tuned one."""

    # The package has att_kv as [head, key, value].
    package_state: Mapping[str, tuple[int, ...]] = MappingProxyType(
        {"att_xx": (0,), "att_kv": (0, 2, 1), "ffn_xx": (0,)}
    )

    def state_fields(self, config: Config) -> tuple[StateField, ...]:
        """Return the arrays of a layer's state; att_kv is indexed [head, value, key]."""
        count, size = heads(config)
        return (
            StateField("ffn_xx", (config.d_model,), 0.0),
            StateField("att_xx", (config.d_model,), 0.0),
            StateField("att_kv", (count, size, size), 0.0),
        )

    def initial_state(self, config: Config, parameters: Mapping[str, Parameter]) -> npt.NDArray[Any]:
        """Return the state before the first token; att_kv is a layer's time_state where there is one."""
        state = super().initial_state(config, parameters)
        start = self.state_offsets(config)["att_kv"]
        for i, row in enumerate(state):
            tuned = parameters.get(f"blocks.{i}.att.time_state")
            if tuned is not None:
                with np.errstate(invalid="ignore", over="ignore"):  # numbers that float32 cannot hold become infinite
                    row[start:] = widen(tuned.array, tuned.dtype, "f64").reshape(-1)
        return state

    def initial_state_gradient(self, config: Config, d_state: npt.NDArray[Any]) -> Mapping[str, npt.NDArray[Any]]:
        """Return the gradient of each layer's time_state."""
        start, shape = self.state_offsets(config)["att_kv"], self.tuned_state(config).shape
        return {f"blocks.{i}.att.time_state": row[start:].reshape(shape) for i, row in enumerate(d_state)}

    def tuned_state(self, config: Config) -> ParameterSpec:
        """Return the parameter that holds the state a sequence begins with, [head, value, key]."""
        count, size = heads(config)
        return ParameterSpec(
            "att.time_state", (count, size, size), "state", constant(0.0, count, size, size), optional=True
        )
