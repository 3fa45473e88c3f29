"""RWKV-8 rc00: RWKV-7 with a table of vectors that scale the result of each token's channel mix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rwkv_cy.architectures.base import ParameterSpec, Shapes
from rwkv_cy.architectures.builders import table
from rwkv_cy.architectures.rwkv7 import RWKV7
from rwkv_cy.config import Config
from rwkv_cy.tensors.tensor import Parameter

__all__ = ["RWKV8rc00"]


class RWKV8rc00(RWKV7):
    """The first release candidate of RWKV-8: a vector of each token, from a table, scales its channel mix."""

    name = "rwkv8_rc00"
    label = "RWKV-8 rc00"

    def matches(self, shapes: Shapes) -> bool:
        """Tell whether these are tensors of RWKV-8 rc00 or of a relative of it: a table enn."""
        return super().matches(shapes) and any(".ffn.enn." in name for name in shapes)

    def layer_parameters(self, config: Config, layer: int) -> tuple[ParameterSpec, ...]:
        """Return the parameters of one layer: those of RWKV-7, and the table."""
        # Training code was not published. A new model begins as RWKV-7 does: with the factor 1.
        enn = table("ffn.enn.weight", config.vocab_size, config.d_model, lambda: np.ones(config.d_model))
        return (*super().layer_parameters(config, layer), enn)

    def gradients(self, config: Config, layer: int, time_mix: Any, channel_mix: Any) -> tuple[Any, Any]:
        """Return the backward pass of a layer's mixes."""
        from rwkv_cy.kernels import rwkv7_gradient, rwkv8_rc00_gradient

        return rwkv7_gradient.TimeMixGradient(time_mix), rwkv8_rc00_gradient.ChannelMixGradient(channel_mix)

    def channel_mix(
        self, config: Config, layer: int, parameters: Mapping[str, Parameter], output_scale: float, activations: str
    ) -> Any:
        """Return the compiled channel mix of a layer."""
        from rwkv_cy.kernels import rwkv8_rc00 as kernels

        return kernels.ChannelMix(config, self.state_offsets(config), parameters, output_scale, activations)
