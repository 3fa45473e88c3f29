"""RWKV-7a: RWKV-7 with DeepEmbed, a table of small matrices that scale the channel mix of each token."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from rwkv_cy.architectures.base import ParameterSpec, Shapes
from rwkv_cy.architectures.builders import constant, matrix, orthogonal, table
from rwkv_cy.architectures.rwkv7 import RWKV7
from rwkv_cy.architectures.shapes import dimension
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError, SpecError
from rwkv_cy.records import replace
from rwkv_cy.tensors.tensor import Parameter

__all__ = ["RWKV7a"]

#: Rank of every released model, and a bound: each token has a matrix of rank times rank numbers.
_RANK, _LARGEST_RANK = 32, 256


class RWKV7a(RWKV7):
    """RWKV-7 with DeepEmbed: in the channel mix a matrix of each token, from a table, scales the hidden vector.

    The rank ``"s"`` is the size of these matrices.
    """

    name = "rwkv7a"
    label = "RWKV-7a"
    other_ranks: Mapping[str, int] = MappingProxyType({"s": _RANK})

    def matches(self, shapes: Shapes) -> bool:
        """Tell whether these are tensors of RWKV-7a or of a relative of it: a table s_emb."""
        return super().matches(shapes) and any(".ffn.s_emb." in name for name in shapes)

    def config(self, shapes: Shapes, where: str) -> Config:
        """Read the dimensions off the shapes."""
        config, name = super().config(shapes, where), "blocks.0.ffn.s1"
        rank = dimension(shapes, name, 1, where)
        if rank > _LARGEST_RANK:
            raise SpecError(f"{where}: {name}: expected a rank of at most {_LARGEST_RANK}, got {rank}")
        return replace(config, ranks={**config.ranks, "s": rank})

    def layer_parameters(self, config: Config, layer: int) -> tuple[ParameterSpec, ...]:
        """Return the parameters of one layer: those of RWKV-7, and the table with what belongs to it."""
        if "s" not in config.ranks:
            raise ConfigError("Config.ranks: expected a rank s, missing; complete the config, or give it")
        # Training code was not published. A new model begins as RWKV-7 does: with the factor 1.
        rank, c, f = config.ranks["s"], config.d_model, config.d_ffn
        s1, s2 = (
            ParameterSpec(f"ffn.{name}", shape, "low_rank", initialise, orientation="in_out")
            for name, shape, initialise in (
                ("s1", (c, rank), orthogonal(c, rank, 1.0)),
                ("s2", (rank, f), constant(0.0, rank, f)),
            )
        )
        return (
            *super().layer_parameters(config, layer),
            s1,
            s2,
            ParameterSpec("ffn.s0", (f,), "vector", constant(1.0, f)),
            table("ffn.s_emb.weight", config.vocab_size, rank * rank, lambda: np.eye(rank).reshape(-1)),
            matrix("ffn.s_emb_x.weight", rank * rank, c, 0.0),
        )

    def gradients(self, config: Config, layer: int, time_mix: Any, channel_mix: Any) -> tuple[Any, Any]:
        """Return the backward pass of a layer's mixes."""
        from rwkv_cy.kernels import rwkv7_gradient, rwkv7a_gradient

        return rwkv7_gradient.TimeMixGradient(time_mix), rwkv7a_gradient.ChannelMixGradient(channel_mix)

    def channel_mix(
        self, config: Config, layer: int, parameters: Mapping[str, Parameter], output_scale: float, activations: str
    ) -> Any:
        """Return the compiled channel mix of a layer."""
        from rwkv_cy.kernels import rwkv7a as kernels

        return kernels.ChannelMix(config, self.state_offsets(config), parameters, output_scale, activations)
