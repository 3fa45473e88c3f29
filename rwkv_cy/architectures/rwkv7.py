"""RWKV-7: its signature, parameters, state, initial values, and its two mixes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rwkv_cy.architectures.base import ParameterSpec, Shapes
from rwkv_cy.architectures.builders import constant, embedding_and_head, low_rank, matrix, norm, vector
from rwkv_cy.architectures.curves import Curve, sigmoid
from rwkv_cy.architectures.heads import (
    HeadsArchitecture,
    check_heads,
    completed_head_size,
    heads,
    known_ranks,
    required_ranks,
)
from rwkv_cy.architectures.shapes import count_layers, dimension
from rwkv_cy.config import Config
from rwkv_cy.records import replace
from rwkv_cy.tensors.tensor import Parameter

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["RWKV7"]

Array: TypeAlias = "npt.NDArray[np.float64]"

#: Rank of a low-rank product that the authors suggest for a new model, as a multiple of the root of d_model.
_RANK_FACTORS = {"w": 2.5, "a": 2.5, "v": 1.7, "g": 5.0}
_SMALLEST_RANK = 32


def _decay(w0: Array) -> Array:
    return np.asarray(np.exp(-sigmoid(w0) / math.sqrt(math.e)))


class RWKV7(HeadsArchitecture):
    """RWKV-7 ("Goose"): a matrix state per head, updated by a generalized delta rule; low-rank gates.

    Ranks by name: ``"w"`` of the decay, ``"a"`` of the in-context learning rate, ``"v"`` of the value residual (none in
    a model of one layer), ``"g"`` of the output gate.
    """

    name = "rwkv7"
    label = "RWKV-7"
    package_state = MappingProxyType({"att_xx": (0,), "att_kv": (0, 1, 2), "ffn_xx": (0,)})
    curves = (
        Curve("att.w0", "decay", "factor of the state without the token's part, exp(-sigmoid(w0) / sqrt(e))", _decay),
        Curve("att.a0", "rate", "in-context learning rate without the token's part, sigmoid(a0)", sigmoid),
        Curve("att.v0", "rate", "share of the first layer's value without the token's part, sigmoid(v0)", sigmoid),
        Curve("att.k_k", "rate", "factor of the key that is removed"),
        Curve("att.k_a", "rate", "weight of the learning rate in the key that is added"),
        Curve("att.r_k", "bonus", "weight of the current token"),
        *(Curve(f"att.x_{part}", "mix", "share of the previous token") for part in "rwkvag"),
        Curve("ffn.x_k", "mix", "share of the previous token"),
    )
    #: Ranks that a variant has beside those of this version, and those of its new models.
    other_ranks: Mapping[str, int] = MappingProxyType({})

    def matches(self, shapes: Shapes) -> bool:
        """Tell whether these are tensors of RWKV-7 or of a relative of it: a bonus r_k."""
        return any(name.endswith(".att.r_k") for name in shapes)

    def config(self, shapes: Shapes, where: str) -> Config:
        """Read the dimensions off the shapes."""
        num_layers = count_layers(shapes, where)
        att = "blocks.0.att"
        count, head_size = (dimension(shapes, f"{att}.r_k", axis, where) for axis in (0, 1))
        d_att = dimension(shapes, f"{att}.receptance.weight", 0, where)
        check_heads(f"{att}.r_k", count, head_size, d_att, where)
        # Layer 0 has no value residual: files may leave its factors out.
        first = {"w": 0, "a": 0, "v": min(1, num_layers - 1), "g": 0}
        ranks = {
            name: dimension(shapes, f"blocks.{layer}.att.{name}1", 1, where)
            for name, layer in first.items()
            if name != "v" or layer or f"{att}.v1" in shapes
        }
        return Config(
            architecture=self.name,
            d_model=dimension(shapes, "emb.weight", 1, where),
            num_layers=num_layers,
            vocab_size=dimension(shapes, "emb.weight", 0, where),
            d_att=d_att,
            d_ffn=dimension(shapes, "blocks.0.ffn.key.weight", 0, where),
            head_size=head_size,
            ranks=ranks,
        )

    def complete(self, config: Config) -> Config:
        """Return `config` with the head size of the released models and the ranks that the authors suggest.

        Raises
        ------
        ConfigError
            If the heads do not fill d_att, or a rank has a name that this version does not know.
        """
        head_size = completed_head_size(config)
        known_ranks(config, (*_RANK_FACTORS, *self.other_ranks))
        suggested = {
            name: max(_SMALLEST_RANK, _SMALLEST_RANK * round(factor * math.sqrt(config.d_model) / _SMALLEST_RANK))
            for name, factor in _RANK_FACTORS.items()
            if name != "v" or config.num_layers > 1
        }
        return replace(config, head_size=head_size, ranks={**suggested, **self.other_ranks, **config.ranks})

    def alike(self, layer: int) -> int:
        """Return the first layer that has the same parameters: only the first of all differs."""
        return min(layer, 1)

    def layer_parameters(self, config: Config, layer: int) -> tuple[ParameterSpec, ...]:
        """Return the parameters of one layer."""
        c, a, f = config.d_model, config.d_att, config.d_ffn
        required_ranks(config, "wavg" if config.num_layers > 1 else "wag")
        count, size = heads(config)

        def curve(name: str, width: int) -> ParameterSpec:
            # Checkpoints hold vectors as they were broadcast over (batch, time, channel).
            return vector(name, (1, 1, width), lambda: _curves(config, layer)[name])

        def low_rank_product(name: str) -> tuple[ParameterSpec, ...]:
            bias = () if name == "g" else (curve(f"att.{name}0", a),)
            return (*bias, *low_rank(f"att.{name}", c, config.ranks[name], a, 0.1))

        # Layer 0 makes the value that the others take up; its own v0, v1 and v2 have no use, and may be missing.
        value_residual = low_rank_product("v") if "v" in config.ranks else ()
        return (
            *(norm("ln0", c) if layer == 0 else ()),
            *norm("ln1", c),
            *norm("ln2", c),
            *(curve(f"att.x_{part}", c) for part in "rwkvag"),
            *low_rank_product("w"),
            *low_rank_product("a"),
            *(replace(spec, optional=layer == 0) for spec in value_residual),
            *low_rank_product("g"),
            curve("att.k_k", a),
            curve("att.k_a", a),
            ParameterSpec("att.r_k", (count, size), "vector", constant(-0.04, count, size)),
            matrix("att.receptance.weight", a, c, 1.0),
            matrix("att.key.weight", a, c, 0.1),
            matrix("att.value.weight", a, c, 1.0),
            matrix("att.output.weight", c, a, 0.0),
            vector("att.ln_x.weight", (a,), lambda: _curves(config, layer)["att.ln_x.weight"]),
            ParameterSpec("att.ln_x.bias", (a,), "vector", constant(0.0, a)),
            self.tuned_state(config),
            curve("ffn.x_k", c),
            matrix("ffn.key.weight", f, c, 1.0),
            matrix("ffn.value.weight", c, f, 0.0, sparse_input=True),
        )

    def outer_parameters(self, config: Config) -> tuple[ParameterSpec, ...]:
        """Return embedding, final LayerNorm and head."""
        return embedding_and_head(config, 0.5 * max(1.0, math.sqrt(config.vocab_size / config.d_model)))

    def time_mix(
        self, config: Config, layer: int, parameters: Mapping[str, Parameter], output_scale: float, activations: str
    ) -> Any:
        """Return the compiled time mix of a layer."""
        from rwkv_cy.kernels import rwkv7 as kernels

        return kernels.TimeMix(config, self.state_offsets(config), parameters, output_scale, activations, layer)

    def channel_mix(
        self, config: Config, layer: int, parameters: Mapping[str, Parameter], output_scale: float, activations: str
    ) -> Any:
        """Return the compiled channel mix of a layer."""
        from rwkv_cy.kernels import rwkv7 as kernels

        return kernels.ChannelMix(config, self.state_offsets(config), parameters, output_scale, activations)

    def gradients(self, config: Config, layer: int, time_mix: Any, channel_mix: Any) -> tuple[Any, Any]:
        """Return the backward pass of a layer's mixes."""
        from rwkv_cy.kernels import rwkv7_gradient as kernels

        return kernels.TimeMixGradient(time_mix), kernels.ChannelMixGradient(channel_mix)


# --- initial values (RWKV-LM, RWKV-v7/train_temp/src/model.py: constructors, then generate_init_weight) ---


def _curves(config: Config, layer: int) -> dict[str, Array]:
    """Return the curves over the channels, which depend on the layer's depth."""
    r01 = layer / max(config.num_layers - 1, 1)  # 0 to 1; one layer alone counts as the first
    r10 = 1.0 - layer / config.num_layers  # 1 to nearly 0
    d = np.arange(config.d_model) / config.d_model  # 0 to nearly 1
    h = np.arange(config.d_att, dtype=np.float64)
    rising = h / max(config.d_att - 1, 1)  # 0 to 1; one channel alone counts as the first
    linear = rising - 0.5
    half = (config.head_size - 1) / 2
    z = (h % config.head_size - half) / max(half, 0.5)  # -1 to 1 within each head
    zigzag = z * np.abs(z)
    return {
        "att.x_r": 1 - d ** (0.2 * r10),
        "att.x_w": 1 - d ** (0.9 * r10),
        "att.x_k": 1 - d ** (0.7 * r10),
        "att.x_v": 1 - d ** (0.7 * r10),
        "att.x_a": 1 - d ** (0.9 * r10),
        "att.x_g": 1 - d ** (0.2 * r10),
        # w0 = -6 + 6 (c / (C - 1))^(1 + r01^0.3) + 0.5 + 2.5 z |z|
        "att.w0": -6 + 6 * rising ** (1 + r01**0.3) + 0.5 + 2.5 * zigzag,
        "att.a0": -0.19 + 0.3 * zigzag + 0.4 * linear,
        "att.v0": 0.73 - 0.4 * linear,
        "att.k_k": 0.71 - 0.1 * linear,
        "att.k_a": np.full_like(h, 1.02),
        "att.ln_x.weight": np.full_like(h, ((1 + layer) / config.num_layers) ** 0.7),
        "ffn.x_k": 1 - d ** (r10**4),
    }
