"""Config: the dimensions of a model and the type of its arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rwkv_cy.errors import ConfigError
from rwkv_cy.records import dataclass, field, fields

__all__ = ["Config"]

#: Far above any model; a larger number means a damaged file.
_LARGEST = 1 << 24


@dataclass(frozen=True)
class Config:
    """Dimensions and arithmetic of a model.

    Attributes
    ----------
    d_model : int
        Width of the residual stream (n_embd).
    num_layers : int
        Number of layers.
    rescale_layer : int, default 0
        Halve the residual stream after every so many layers, as half-precision runtimes do against
        overflow; 0 disables it.
    vocab_size : int, default 0
        Tokens of the vocabulary; 0 for a model of vectors without embedding and head.
    d_att : int, default d_model
        Width of the attention (time mix).
    d_ffn : int, default 4 * d_model
        Width of the hidden vector of the channel mix.
    architecture : str, default "rwkv4"
        Key of :data:`rwkv_cy.architectures.ARCHITECTURES`.
    layer_norm_eps : float, default 1e-5
        Added to the variance by every LayerNorm.
    head_size : int, default 0
        Channels of a head of the time mix; 0 for a version without heads, or to let the architecture choose.
    ranks : mapping of str to int
        Widths of the low-rank products, by the architecture's names for them (``{"w": 64, "a": 64}``).
    group_norm_eps : float, default 64e-5
        Added to the variance by the GroupNorm over the heads, in versions that have one.
    compute_dtype : {"f32", "f64"}, default "f32"
        Type of activations and state.
    embedding_norm : bool, default True
        Whether layer 0 normalizes the embedding with ln0; false for a model whose embedding is stored normalized.

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    d_model: int
    num_layers: int
    rescale_layer: int = 0
    vocab_size: int = 0
    d_att: int = 0
    d_ffn: int = 0
    architecture: str = "rwkv4"
    layer_norm_eps: float = 1e-5
    compute_dtype: str = "f32"
    head_size: int = 0
    ranks: Mapping[str, int] = field(default_factory=dict, hash=False)
    group_norm_eps: float = 64e-5
    embedding_norm: bool = True

    def __post_init__(self) -> None:
        for name in ("d_model", "num_layers"):
            _check_integer(f"Config.{name}", getattr(self, name), 1)
        for name in ("rescale_layer", "vocab_size", "d_att", "d_ffn", "head_size"):
            _check_integer(f"Config.{name}", getattr(self, name), 0)
        if not isinstance(self.ranks, Mapping) or not all(isinstance(name, str) for name in self.ranks):
            raise ConfigError(f"Config.ranks: expected integers by name, got {self.ranks!r}")
        for name, rank in self.ranks.items():
            _check_integer(f"Config.ranks[{name!r}]", rank, 1)
        object.__setattr__(self, "ranks", dict(self.ranks))
        object.__setattr__(self, "d_att", self.d_att or self.d_model)
        object.__setattr__(self, "d_ffn", self.d_ffn or 4 * self.d_model)
        for name in ("layer_norm_eps", "group_norm_eps"):
            eps = getattr(self, name)
            if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not math.isfinite(eps) or eps <= 0:
                raise ConfigError(f"Config.{name}: expected a positive number, got {eps!r}")
        if not isinstance(self.embedding_norm, bool):
            raise ConfigError(f"Config.embedding_norm: expected true or false, got {self.embedding_norm!r}")
        if self.compute_dtype not in ("f32", "f64"):
            raise ConfigError(f"Config.compute_dtype: expected 'f32' or 'f64', got {self.compute_dtype!r}")
        if not isinstance(self.architecture, str) or not self.architecture:
            raise ConfigError(f"Config.architecture: expected a name such as 'rwkv4', got {self.architecture!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, ready for JSON."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["ranks"] = dict(self.ranks)
        # What a version does not have, or nearly every model has, is left out.
        defaults = {"head_size": 0, "ranks": {}, "group_norm_eps": Config.group_norm_eps, "embedding_norm": True}
        return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """Return the Config of a result of :meth:`to_dict`.

        Parameters
        ----------
        values : mapping of str to object
            Fields by name; what is left out has its default.

        Raises
        ------
        ConfigError
            If a field is missing, unknown or out of range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        missing = sorted({"d_model", "num_layers"} - set(values))
        if unknown or missing:
            raise ConfigError(
                f"Config: expected the fields {', '.join(sorted(known))}; "
                f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(map(str, unknown)) or 'none'}"
            )
        return cls(**values)


def _check_integer(what: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= _LARGEST:
        raise ConfigError(f"{what}: expected an integer from {low} to {_LARGEST}, got {value!r}")
