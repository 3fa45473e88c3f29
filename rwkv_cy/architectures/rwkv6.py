"""RWKV-6: its signature, parameters, state, initial values, and its two mixes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rwkv_cy.architectures.base import ParameterSpec, Shapes
from rwkv_cy.architectures.builders import constant, embedding_and_head, matrix, norm, uniform, vector
from rwkv_cy.architectures.curves import Curve, doubly_exponential
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
from rwkv_cy.errors import SpecError
from rwkv_cy.records import replace
from rwkv_cy.tensors.tensor import Parameter

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["RWKV6"]

Array: TypeAlias = "npt.NDArray[np.float64]"

#: The mixes in the order of their low-rank factors.
_MIXES = "wkvrg"
#: Ranks of the authors' models: of the mixes and of the decay, and those of models from this width on.
_RANKS = {"maa": 32, "decay": 64}
_WIDE = 4096


class RWKV6(HeadsArchitecture):
    """RWKV-6 ("Finch"): a matrix state per head with a decay for each token and channel, low-rank mixes, a gate.

    Ranks by name: ``"maa"`` of each of the five mixes, ``"decay"`` of the decay.
    """

    name = "rwkv6"
    label = "RWKV-6"
    curves = (
        Curve(
            "att.time_decay", "decay", "factor of the state without the token's part, exp(-exp(w))", doubly_exponential
        ),
        Curve("att.time_faaaa", "bonus", "weight of the current token"),
        *(
            Curve(f"att.time_maa_{part}", "mix", "share of the previous token, without the token's part")
            for part in f"x{_MIXES}"
        ),
        *(Curve(f"ffn.time_maa_{part}", "mix", "share of the previous token") for part in "kr"),
    )

    def matches(self, shapes: Shapes) -> bool:
        """Tell whether these are tensors of RWKV-6 or of a relative of it: mixes that depend on the token."""
        return any(name.endswith(".att.time_maa_x") for name in shapes)

    def config(self, shapes: Shapes, where: str) -> Config:
        """Read the dimensions off the shapes."""
        att = "blocks.0.att"
        count, head_size = (dimension(shapes, f"{att}.time_faaaa", axis, where) for axis in (0, 1))
        d_att = dimension(shapes, f"{att}.receptance.weight", 0, where)
        check_heads(f"{att}.time_faaaa", count, head_size, d_att, where)
        mixes = dimension(shapes, f"{att}.time_maa_w1", 1, where)
        if mixes % len(_MIXES):
            raise SpecError(
                f"{where}: {att}.time_maa_w1: expected a multiple of {len(_MIXES)} columns, got {mixes}; "
                "the file is not a whole, unchanged model"
            )
        return Config(
            architecture=self.name,
            d_model=dimension(shapes, "emb.weight", 1, where),
            num_layers=count_layers(shapes, where),
            vocab_size=dimension(shapes, "emb.weight", 0, where),
            d_att=d_att,
            d_ffn=dimension(shapes, "blocks.0.ffn.key.weight", 0, where),
            head_size=head_size,
            ranks={
                "maa": mixes // len(_MIXES),
                "decay": dimension(shapes, f"{att}.time_decay_w1", 1, where),
            },
        )

    def complete(self, config: Config) -> Config:
        """Return `config` with the head size and the ranks of the authors' models.

        Raises
        ------
        ConfigError
            If the heads do not fill d_att, or a rank has a name that this version does not know.
        """
        head_size = completed_head_size(config)
        known_ranks(config, tuple(_RANKS))
        factor = 2 if config.d_model >= _WIDE else 1
        ranks = {name: factor * rank for name, rank in _RANKS.items()}
        return replace(config, head_size=head_size, ranks={**ranks, **config.ranks})

    def alike(self, layer: int) -> int:
        """Return the first layer that has the same parameters: only the first of all differs."""
        return min(layer, 1)

    def layer_parameters(self, config: Config, layer: int) -> tuple[ParameterSpec, ...]:
        """Return the parameters of one layer."""
        required_ranks(config, tuple(_RANKS))
        c, a, f = config.d_model, config.d_att, config.d_ffn
        mixes, maa, decay = len(_MIXES), config.ranks["maa"], config.ranks["decay"]

        def curve(name: str, *shape: int) -> ParameterSpec:
            return vector(name, shape, lambda: _curves(config, layer)[name])

        def factor(name: str, begins: float, *shape: int) -> ParameterSpec:
            # Two axes are (in, out); three are one such factor for each mix.
            orientation = {"orientation": "in_out"} if len(shape) == 2 else {}
            return ParameterSpec(name, shape, "low_rank", uniform(begins, *shape), **orientation)  # type: ignore[arg-type]

        return (
            *(norm("ln0", c) if layer == 0 else ()),
            *norm("ln1", c),
            *norm("ln2", c),
            # Checkpoints hold vectors as they were broadcast over (batch, time, channel).
            *(curve(f"att.time_maa_{part}", 1, 1, c) for part in f"x{_MIXES}"),
            factor("att.time_maa_w1", 0.0, c, mixes * maa),
            factor("att.time_maa_w2", 0.01, mixes, maa, c),
            curve("att.time_decay", 1, 1, a),
            factor("att.time_decay_w1", 0.0, c, decay),
            factor("att.time_decay_w2", 0.01, decay, a),
            curve("att.time_faaaa", *heads(config)),
            matrix("att.receptance.weight", a, c, 1.0),
            matrix("att.key.weight", a, c, 0.1),
            matrix("att.value.weight", a, c, 1.0),
            matrix("att.output.weight", c, a, 0.0),
            matrix("att.gate.weight", a, c, 0.1),
            curve("att.ln_x.weight", a),
            ParameterSpec("att.ln_x.bias", (a,), "vector", constant(0.0, a)),
            self.tuned_state(config),
            *(curve(f"ffn.time_maa_{part}", 1, 1, c) for part in "kr"),
            matrix("ffn.key.weight", f, c, 1.0),
            matrix("ffn.receptance.weight", c, c, 0.0),
            matrix("ffn.value.weight", c, f, 0.0, sparse_input=True),
        )

    def outer_parameters(self, config: Config) -> tuple[ParameterSpec, ...]:
        """Return embedding, final LayerNorm and head."""
        return embedding_and_head(config, 0.5 * max(1.0, math.sqrt(config.vocab_size / config.d_model)))

    def time_mix(
        self, config: Config, layer: int, parameters: Mapping[str, Parameter], output_scale: float, activations: str
    ) -> Any:
        """Return the compiled time mix of a layer."""
        from rwkv_cy.kernels import rwkv6 as kernels

        return kernels.TimeMix(config, self.state_offsets(config), parameters, output_scale, activations)

    def channel_mix(
        self, config: Config, layer: int, parameters: Mapping[str, Parameter], output_scale: float, activations: str
    ) -> Any:
        """Return the compiled channel mix of a layer."""
        offsets = self.state_offsets(config)
        from rwkv_cy.kernels import rwkv4 as kernels

        return kernels.ChannelMix(
            config, offsets, parameters, output_scale, activations, mixes="ffn.time_maa_", lerped=True
        )

    def gradients(self, config: Config, layer: int, time_mix: Any, channel_mix: Any) -> tuple[Any, Any]:
        """Return the backward pass of a layer's mixes."""
        from rwkv_cy.kernels.rwkv4_gradient import ChannelMixGradient
        from rwkv_cy.kernels.rwkv6_gradient import TimeMixGradient

        return TimeMixGradient(time_mix), ChannelMixGradient(channel_mix, "ffn.time_maa_")


# --- initial values (RWKV-LM, RWKV-v5/src/model.py: RWKV_Tmix_x060, RWKV_CMix_x060, generate_init_weight) ---


def _curves(config: Config, layer: int) -> dict[str, Array]:
    """Return the curves over the channels, which depend on the layer's depth."""
    r01 = layer / max(config.num_layers - 1, 1)  # 0 to 1; one layer alone counts as the first
    r10 = 1.0 - layer / config.num_layers  # 1 to nearly 0
    d = np.arange(config.d_model) / config.d_model  # 0 to nearly 1
    h = np.arange(config.d_att, dtype=np.float64)
    rising = h / max(config.d_att - 1, 1)  # 0 to 1; one channel alone counts as the first
    falling, slow, late = 1 - d**r10, 1 - d ** (0.5 * r10), 1 - d ** (r10**3)
    return {
        "att.time_maa_x": falling,
        "att.time_maa_w": falling,
        "att.time_maa_k": falling,
        "att.time_maa_v": falling - 0.3 * r01,
        "att.time_maa_r": slow,
        "att.time_maa_g": slow,
        # time_decay = -6 + 5 (c / (C - 1))^(0.7 + 1.3 r01)
        "att.time_decay": -6 + 5 * rising ** (0.7 + 1.3 * r01),
        # time_faaaa = r01 (1 - c / (C - 1)) + 0.1 ((c + 1) % 3 - 1)
        "att.time_faaaa": r01 * (1 - rising) + 0.1 * ((h + 1) % 3 - 1),
        "att.ln_x.weight": np.full_like(h, ((1 + layer) / config.num_layers) ** 0.7),
        "ffn.time_maa_k": late,
        "ffn.time_maa_r": late,
    }
