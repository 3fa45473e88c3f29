"""RWKV-4: its signature, parameters, state, initial values, and its two mixes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rwkv_cy.architectures.base import Architecture, ParameterSpec, Shapes, StateField
from rwkv_cy.architectures.builders import embedding_and_head, matrix, norm, vector
from rwkv_cy.architectures.curves import Curve, doubly_exponential, one_minus
from rwkv_cy.architectures.heads import known_ranks
from rwkv_cy.architectures.shapes import count_layers, dimension
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError
from rwkv_cy.tensors.tensor import Parameter

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["RWKV4"]

Array: TypeAlias = "npt.NDArray[np.float64]"


class RWKV4(Architecture):
    """RWKV-4 ("Dove"): a vector state with a running maximum, receptance gates in both mixes."""

    name = "rwkv4"
    label = "RWKV-4"
    package_state = MappingProxyType(dict.fromkeys(("att_xx", "att_aa", "att_bb", "att_pp", "ffn_xx"), (0,)))
    curves = (
        Curve("att.time_decay", "decay", "factor of the state at each token, exp(-exp(w))", doubly_exponential),
        Curve("att.time_first", "bonus", "added to the key of the current token"),
        *(Curve(f"att.time_mix_{part}", "mix", "share of the previous token, 1 - mix", one_minus) for part in "kvr"),
        *(Curve(f"ffn.time_mix_{part}", "mix", "share of the previous token, 1 - mix", one_minus) for part in "kr"),
    )

    def matches(self, shapes: Shapes) -> bool:
        """Tell whether these are tensors of RWKV-4: a time_mix_k, and no normalisation after the WKV."""
        return "blocks.0.att.time_mix_k" in shapes and not any(name.endswith(".att.ln_x.weight") for name in shapes)

    def config(self, shapes: Shapes, where: str) -> Config:
        """Read the dimensions off the shapes."""
        return Config(
            architecture=self.name,
            d_model=dimension(shapes, "emb.weight", 1, where),
            num_layers=count_layers(shapes, where),
            vocab_size=dimension(shapes, "emb.weight", 0, where),
            d_att=dimension(shapes, "blocks.0.att.key.weight", 0, where),
            d_ffn=dimension(shapes, "blocks.0.ffn.key.weight", 0, where),
        )

    def complete(self, config: Config) -> Config:
        """Return `config`, which may not have heads and ranks: this version has neither.

        Raises
        ------
        ConfigError
            If it has.
        """
        if config.head_size:
            raise ConfigError(
                f"Config.head_size: {self.label} does not have heads, and {config.head_size} was given; leave it out"
            )
        known_ranks(config, ())
        return config

    def state_fields(self, config: Config) -> tuple[StateField, ...]:
        """Return the arrays of a layer's state, in upstream's order."""
        # pp is the running maximum of the keys: e^(pp - p) is 0 before the first token.
        return (
            StateField("ffn_xx", (config.d_model,), 0.0),
            StateField("att_xx", (config.d_model,), 0.0),
            StateField("att_aa", (config.d_att,), 0.0),
            StateField("att_bb", (config.d_att,), 0.0),
            StateField("att_pp", (config.d_att,), -1e30),
        )

    def alike(self, layer: int) -> int:
        """Return the first layer that has the same parameters: only the first of all differs."""
        return min(layer, 1)

    def layer_parameters(self, config: Config, layer: int) -> tuple[ParameterSpec, ...]:
        """Return the parameters of one layer."""
        c, a, f = config.d_model, config.d_att, config.d_ffn

        def curve(name: str, *shape: int) -> ParameterSpec:
            return vector(name, shape, lambda: _time_curves(config, layer)[name])

        return (
            *(norm("ln0", c) if layer == 0 else ()),
            *norm("ln1", c),
            *norm("ln2", c),
            curve("att.time_decay", a),
            curve("att.time_first", a),
            # Checkpoints hold the mixes as they were broadcast over (batch, time, channel).
            *(curve(f"att.time_mix_{part}", 1, 1, c) for part in "kvr"),
            matrix("att.key.weight", a, c, 0.0),
            matrix("att.value.weight", a, c, _gain(a, c)),
            matrix("att.receptance.weight", a, c, 0.0),
            matrix("att.output.weight", c, a, 0.0),
            *(curve(f"ffn.time_mix_{part}", 1, 1, c) for part in "kr"),
            matrix("ffn.key.weight", f, c, _gain(f, c)),
            matrix("ffn.receptance.weight", c, c, 0.0),
            matrix("ffn.value.weight", c, f, 0.0, sparse_input=True),
        )

    def outer_parameters(self, config: Config) -> tuple[ParameterSpec, ...]:
        """Return embedding, final LayerNorm and head."""
        return embedding_and_head(config, 0.5 * _gain(config.vocab_size, config.d_model))

    def time_mix(
        self, config: Config, layer: int, parameters: Mapping[str, Parameter], output_scale: float, activations: str
    ) -> Any:
        """Return the compiled time mix of a layer."""
        from rwkv_cy.kernels import rwkv4 as kernels

        return kernels.TimeMix(config, self.state_offsets(config), parameters, output_scale, activations)

    def channel_mix(
        self, config: Config, layer: int, parameters: Mapping[str, Parameter], output_scale: float, activations: str
    ) -> Any:
        """Return the compiled channel mix of a layer."""
        from rwkv_cy.kernels import rwkv4 as kernels

        return kernels.ChannelMix(config, self.state_offsets(config), parameters, output_scale, activations)

    def gradients(self, config: Config, layer: int, time_mix: Any, channel_mix: Any) -> tuple[Any, Any]:
        """Return the backward pass of a layer's mixes."""
        from rwkv_cy.kernels import rwkv4_gradient as kernels

        return kernels.TimeMixGradient(time_mix), kernels.ChannelMixGradient(channel_mix)


# --- initial values (RWKV-LM, RWKV-v4/src/model.py: RWKV_TimeMix, RWKV_ChannelMix, RWKV_Init) ---


def _gain(rows: int, cols: int) -> float:
    return math.sqrt(rows / cols) if rows > cols else 1.0


def _time_curves(config: Config, layer: int) -> dict[str, Array]:
    """Return the curves over the channels, which depend on the layer's depth."""
    r01 = layer / max(config.num_layers - 1, 1)  # 0 to 1; one layer alone counts as the first
    r10 = 1.0 - layer / config.num_layers  # 1 to nearly 0
    h_att = np.arange(config.d_att, dtype=np.float64)
    h = np.arange(config.d_model, dtype=np.float64)
    falling = (h / config.d_model) ** r10
    return {
        # time_decay = -5 + 8 (h / (C - 1))^(0.7 + 1.3 r01)
        "att.time_decay": -5 + 8 * (h_att / max(config.d_att - 1, 1)) ** (0.7 + 1.3 * r01),
        # time_first = log 0.3 + ((h + 1) % 3 - 1) / 2
        "att.time_first": np.log(0.3) + ((h_att + 1) % 3 - 1) * 0.5,
        "att.time_mix_k": falling,
        "att.time_mix_v": falling + 0.3 * r01,
        "att.time_mix_r": (h / config.d_model) ** (0.5 * r10),
        "ffn.time_mix_k": falling,
        "ffn.time_mix_r": falling,
    }
