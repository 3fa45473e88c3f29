"""RWKV-4: its signature, parameters, state, initial values, and its two mixes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rwkv_cy.architectures.base import Architecture, Initialiser, LayerKernel, ParameterSpec, Shapes, StateField
from rwkv_cy.architectures.shapes import count_layers, dimension
from rwkv_cy.config import Config
from rwkv_cy.kernels import rwkv4 as kernels
from rwkv_cy.tensors.tensor import Parameter

__all__ = ["RWKV4"]

Array = npt.NDArray[np.float64]


def _matches(shapes: Shapes) -> bool:
    return "blocks.0.att.time_mix_k" in shapes and not any(name.endswith(".att.ln_x.weight") for name in shapes)


def _config(shapes: Shapes, where: str) -> Config:
    return Config(
        architecture="rwkv4",
        d_model=dimension(shapes, "emb.weight", 1, where),
        num_layers=count_layers(shapes, where),
        vocab_size=dimension(shapes, "emb.weight", 0, where),
        d_att=dimension(shapes, "blocks.0.att.key.weight", 0, where),
        d_ffn=dimension(shapes, "blocks.0.ffn.key.weight", 0, where),
    )


def _state_fields(config: Config) -> tuple[StateField, ...]:
    # The seed's order. pp is the running maximum of the keys: e^(pp - p) is 0 before the first token.
    return (
        StateField("ffn_xx", (config.d_model,), 0.0),
        StateField("att_xx", (config.d_model,), 0.0),
        StateField("att_aa", (config.d_att,), 0.0),
        StateField("att_bb", (config.d_att,), 0.0),
        StateField("att_pp", (config.d_att,), -1e30),
    )


# --- initial values (RWKV-LM, RWKV-v4/src/model.py: RWKV_TimeMix, RWKV_ChannelMix, RWKV_Init) ---


def _constant(value: float, *shape: int) -> Initialiser:
    return lambda rng: np.full(shape, value)


def _embedding(*shape: int) -> Initialiser:
    return lambda rng: rng.uniform(-1e-4, 1e-4, shape)


def orthogonal(rows: int, cols: int, scale: float) -> Initialiser:
    """Orthogonal rows or columns, times √(rows/cols) where rows > cols, times `scale`; zeros where `scale` is 0."""
    if scale == 0:
        return _constant(0.0, rows, cols)
    gain = scale * (np.sqrt(rows / cols) if rows > cols else 1.0)

    def draw(rng: np.random.Generator) -> Array:
        q, r = np.linalg.qr(rng.standard_normal((max(rows, cols), min(rows, cols))))
        # The signs of r's diagonal make the draw uniform over orthogonal matrices.
        q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
        return np.asarray(gain * (q if rows >= cols else q.T))

    return draw


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


def _layer_parameters(config: Config, layer: int) -> tuple[ParameterSpec, ...]:
    c, a, f = config.d_model, config.d_att, config.d_ffn

    def vector(name: str) -> ParameterSpec:
        # The mixes stand in checkpoints as they were broadcast over (batch, time, channel).
        shape = (1, 1, c) if "time_mix" in name else (a,)
        return ParameterSpec(name, shape, "vector", lambda rng: _time_curves(config, layer)[name].reshape(shape))

    def norm(name: str) -> tuple[ParameterSpec, ParameterSpec]:
        return (
            ParameterSpec(f"{name}.weight", (c,), "vector", _constant(1.0, c)),
            ParameterSpec(f"{name}.bias", (c,), "vector", _constant(0.0, c)),
        )

    def matrix(name: str, rows: int, cols: int, scale: float) -> ParameterSpec:
        return ParameterSpec(name, (rows, cols), "matrix", orthogonal(rows, cols, scale))

    return (
        *(norm("ln0") if layer == 0 else ()),
        *norm("ln1"),
        *norm("ln2"),
        *(vector(f"att.{name}") for name in ("time_decay", "time_first", "time_mix_k", "time_mix_v", "time_mix_r")),
        matrix("att.key.weight", a, c, 0.0),
        matrix("att.value.weight", a, c, 1.0),
        matrix("att.receptance.weight", a, c, 0.0),
        matrix("att.output.weight", c, a, 0.0),
        *(vector(f"ffn.{name}") for name in ("time_mix_k", "time_mix_r")),
        matrix("ffn.key.weight", f, c, 1.0),
        matrix("ffn.receptance.weight", c, c, 0.0),
        # Its inputs come out of a squared relu.
        replace(matrix("ffn.value.weight", c, f, 0.0), sparse_input=True),
    )


def _parameters(config: Config) -> tuple[ParameterSpec, ...]:
    c, v = config.d_model, config.vocab_size
    layers = [
        replace(spec, name=f"blocks.{i}.{spec.name}")
        for i in range(config.num_layers)
        for spec in _layer_parameters(config, i)
    ]
    return (
        ParameterSpec("emb.weight", (v, c), "embedding", _embedding(v, c)),
        *layers,
        ParameterSpec("ln_out.weight", (c,), "vector", _constant(1.0, c)),
        ParameterSpec("ln_out.bias", (c,), "vector", _constant(0.0, c)),
        ParameterSpec("head.weight", (v, c), "matrix", orthogonal(v, c, 0.5)),
    )


def _layer_kernel(
    config: Config, layer: int, parameters: Mapping[str, Parameter], output_scale: float, activations: str
) -> LayerKernel:
    return kernels.Layer(config, layer, parameters, output_scale, activations)


RWKV4 = Architecture(
    name="rwkv4",
    label="RWKV-4",
    matches=_matches,
    config=_config,
    parameters=_parameters,
    layer_parameters=_layer_parameters,
    state_fields=_state_fields,
    layer_kernel=_layer_kernel,
    stack_kernel=kernels.Stack,
)
