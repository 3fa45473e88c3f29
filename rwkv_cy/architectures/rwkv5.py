"""RWKV-5 in its minor versions 5.0, 5.1 and 5.2: signatures, parameters, state, initial values, and the two mixes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rwkv_cy.architectures.base import ParameterSpec, Shapes
from rwkv_cy.architectures.builders import constant, embedding_and_head, matrix, norm, vector
from rwkv_cy.architectures.curves import Curve, doubly_exponential, one_minus
from rwkv_cy.architectures.heads import HeadsArchitecture, check_heads, completed_head_size, heads, known_ranks
from rwkv_cy.architectures.shapes import count_layers, dimension
from rwkv_cy.config import Config
from rwkv_cy.errors import SpecError
from rwkv_cy.records import replace
from rwkv_cy.tensors.tensor import Parameter

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["RWKV5"]

Array: TypeAlias = "npt.NDArray[np.float64]"


class RWKV5(HeadsArchitecture):
    """RWKV-5 ("Eagle"): a matrix state per head with a constant decay.

    Parameters
    ----------
    minor : int
        0, 1 or 2.
    gate : bool
        The output has a gate: from 5.1 on.
    by_channel : bool
        Every channel has its decay and bonus, rather than every head: from 5.2 on.
    """

    def __init__(self, minor: int, *, gate: bool, by_channel: bool) -> None:
        self.name = f"rwkv5.{minor}"
        self.label = f"RWKV-5.{minor}"
        mixes = (*(f"att.time_mix_{part}" for part in ("kvrg" if gate else "kvr")), "ffn.time_mix_k", "ffn.time_mix_r")
        decay = Curve("att.time_decay", "decay", "factor of the state at each token, exp(-exp(w))", doubly_exponential)
        bonus = Curve("att.time_faaaa", "bonus", "weight of the current token")
        self.curves = (
            *(replace(curve, element="channel" if by_channel else "head") for curve in (decay, bonus)),
            *(Curve(name, "mix", "share of the previous token, 1 - mix", one_minus) for name in mixes),
        )
        self._gate = gate
        self._by_channel = by_channel

    def matches(self, shapes: Shapes) -> bool:
        """Tell whether these are tensors of this version, or of a later one: a normalisation after the WKV."""
        if not any(name.endswith(".att.ln_x.weight") for name in shapes):
            return False
        decay = shapes.get("blocks.0.att.time_decay", ())
        by_channel = len(decay) > 1 and decay[1] > 1
        return by_channel if self._by_channel else not by_channel and _has_gate(shapes) == self._gate

    def config(self, shapes: Shapes, where: str) -> Config:
        """Read the dimensions off the shapes."""
        name = "blocks.0.att.time_decay"
        d_att = dimension(shapes, "blocks.0.att.receptance.weight", 0, where)
        if self._by_channel:
            count, head_size = (dimension(shapes, name, axis, where) for axis in (0, 1))
        else:
            count = _length(shapes, name, where)
            head_size = d_att // count
        check_heads(name, count, head_size, d_att, where)
        return Config(
            architecture=self.name,
            d_model=dimension(shapes, "emb.weight", 1, where),
            num_layers=count_layers(shapes, where),
            vocab_size=dimension(shapes, "emb.weight", 0, where),
            d_att=d_att,
            d_ffn=dimension(shapes, "blocks.0.ffn.key.weight", 0, where),
            head_size=head_size,
        )

    def complete(self, config: Config) -> Config:
        """Return `config` with the head size of the released models.

        Raises
        ------
        ConfigError
            If the heads do not fill d_att, or a rank is given.
        """
        known_ranks(config, ())
        return replace(config, head_size=completed_head_size(config))

    def alike(self, layer: int) -> int:
        """Return the first layer that has the same parameters: only the first of all differs."""
        return min(layer, 1)

    def layer_parameters(self, config: Config, layer: int) -> tuple[ParameterSpec, ...]:
        """Return the parameters of one layer."""
        c, a, f = config.d_model, config.d_att, config.d_ffn
        count, size = heads(config)
        by_head = (count, size) if self._by_channel else (count,)
        # The training code of 5.2 is that of RWKV-6; its predecessor has other gains, by which wide matrices grow.
        small = 0.1 if self._by_channel else _gain(a, c)
        att, ffn = (1.0, 1.0) if self._by_channel else (_gain(a, c), _gain(f, c))

        def curve(name: str, *shape: int) -> ParameterSpec:
            return vector(name, shape, lambda: self._curves(config, layer)[name])

        return (
            *(norm("ln0", c) if layer == 0 else ()),
            *norm("ln1", c),
            *norm("ln2", c),
            # Checkpoints hold vectors as they were broadcast over (batch, time, channel).
            *(curve(f"att.time_mix_{part}", 1, 1, c) for part in ("kvrg" if self._gate else "kvr")),
            curve("att.time_decay", *by_head),
            curve("att.time_faaaa", *by_head),
            matrix("att.receptance.weight", a, c, att),
            matrix("att.key.weight", a, c, small),
            matrix("att.value.weight", a, c, att),
            matrix("att.output.weight", c, a, 0.0),
            *((matrix("att.gate.weight", a, c, small),) if self._gate else ()),
            curve("att.ln_x.weight", a),
            ParameterSpec("att.ln_x.bias", (a,), "vector", constant(0.0, a)),
            self.tuned_state(config),
            *(curve(f"ffn.time_mix_{part}", 1, 1, c) for part in "kr"),
            matrix("ffn.key.weight", f, c, ffn),
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
        from rwkv_cy.kernels import rwkv5 as kernels

        return kernels.TimeMix(config, self.state_offsets(config), parameters, output_scale, activations)

    def channel_mix(
        self, config: Config, layer: int, parameters: Mapping[str, Parameter], output_scale: float, activations: str
    ) -> Any:
        """Return the compiled channel mix of a layer."""
        from rwkv_cy.kernels import rwkv4 as kernels

        return kernels.ChannelMix(config, self.state_offsets(config), parameters, output_scale, activations)

    def gradients(self, config: Config, layer: int, time_mix: Any, channel_mix: Any) -> tuple[Any, Any]:
        """Return the backward pass of a layer's mixes."""
        from rwkv_cy.kernels.rwkv4_gradient import ChannelMixGradient
        from rwkv_cy.kernels.rwkv5_gradient import TimeMixGradient

        return TimeMixGradient(time_mix), ChannelMixGradient(channel_mix)

    # --- initial values (RWKV-LM: RWKV_Tmix_x052 of RWKV-v5, RWKV_TimeMix_RWKV5_Preview of RWKV-v4neo) ---

    def _curves(self, config: Config, layer: int) -> dict[str, Array]:
        """Return the curves over the channels or heads, which depend on the layer's depth."""
        r01 = layer / max(config.num_layers - 1, 1)  # 0 to 1; one layer alone counts as the first
        r10 = 1.0 - layer / config.num_layers  # 1 to nearly 0
        d = np.arange(config.d_model) / config.d_model  # 0 to nearly 1
        n = config.d_att if self._by_channel else config.d_att // config.head_size
        h = np.arange(n, dtype=np.float64)
        rising = h / max(n - 1, 1)  # 0 to 1; one channel or head alone counts as the first
        zigzag = 0.1 * ((h + 1) % 3 - 1) if self._by_channel else 0.0
        depth = ((1 + layer) / config.num_layers) ** 0.7 if self._by_channel else 1.0
        return {
            "att.time_mix_k": d**r10,
            "att.time_mix_v": d**r10 + 0.3 * r01,
            "att.time_mix_r": d ** (0.5 * r10),
            "att.time_mix_g": d ** (0.5 * r10),
            # time_decay = -6 + 5 (h / (H - 1))^(0.7 + 1.3 r01)
            "att.time_decay": -6 + 5 * rising ** (0.7 + 1.3 * r01),
            "att.time_faaaa": r01 * (1 - rising) + zigzag,
            "att.ln_x.weight": np.full(config.d_att, depth),
            "ffn.time_mix_k": d**r10,
            "ffn.time_mix_r": d**r10,
        }


def _has_gate(shapes: Shapes) -> bool:
    return any(name.endswith(".att.gate.weight") for name in shapes)


def _length(shapes: Shapes, name: str, where: str) -> int:
    """Return the length of the vector `name`, at least 1."""
    shape = shapes.get(name)
    if shape is None:
        raise SpecError(f"{where}: {name}: expected this parameter, found none; is this a whole model?")
    if len(shape) != 1 or shape[0] < 1:
        raise SpecError(f"{where}: {name}: expected a vector that is not empty, got shape {tuple(shape)}")
    return shape[0]


def _gain(rows: int, cols: int) -> float:
    return math.sqrt(rows / cols) if rows > cols else 1.0
