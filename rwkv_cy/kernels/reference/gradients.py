"""Shared parts of the backward passes in float64 NumPy: products, normalization, token shift, the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from rwkv_cy.kernels.reference.common import Array, LayerState, Mix, Shared, Weights, layer_norm, previous

__all__ = [
    "Gradients",
    "MixGradient",
    "group_norm_gradient",
    "layer_norm_gradient",
    "low_rank_gradient",
    "matmul_gradient",
    "run_gradient",
    "token_lerp_gradients",
]

#: Gradients of parameters by name.
Gradients = dict[str, Array]


class MixGradient(Protocol):
    """The backward pass of a mix over normed x (time, d_model)."""

    def __call__(
        self,
        x: Array,
        state: LayerState,
        weights: Weights,
        shared: Shared,
        d_y: Array,
        d_state: LayerState,
        d_shared: Shared,
    ) -> tuple[Array, Gradients]:
        """Return the gradients of x and of the parameters, and replace arrays of `d_state` and `d_shared`.

        `state` and `shared` are those that the mix has started from.
        """
        ...


def layer_norm_gradient(x: Array, weight: Array, eps: float, d_y: Array) -> tuple[Array, Array, Array]:
    """Gradients of x and, summed over all axes but the last, of weight and bias."""
    centered = x - x.mean(axis=-1, keepdims=True)
    scale = 1 / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + eps)
    normed, d = centered * scale, d_y * weight
    # d_x = scale (d - E[d] - normed E[d normed])
    d_x = scale * (d - d.mean(axis=-1, keepdims=True) - normed * (d * normed).mean(axis=-1, keepdims=True))
    return d_x, (d_y * normed).sum(axis=0), d_y.sum(axis=0)


def group_norm_gradient(x: Array, weight: Array, eps: float, d_y: Array) -> tuple[Array, Array, Array]:
    """Gradients of x (time, heads, size), weight and bias, both (heads, size)."""
    return layer_norm_gradient(x, weight.reshape(x.shape[1:]), eps, d_y)


def matmul_gradient(name: str, weights: Weights, x: Array, d_y: Array, gradients: Gradients) -> Array:
    """Gradient of x (time, in), multiplied with the matrix (out, in) of this name, whose gradient is stored."""
    gradients[name] = d_y.T @ x
    result: Array = d_y @ weights[name]
    return result


def low_rank_gradient(
    name: str, weights: Weights, x: Array, hidden: Array, slope: Array | float, d_y: Array, gradients: Gradients
) -> Array:
    """Gradient of x, of which hidden is an activation of x * first, and the result hidden * second; both (in, out).

    `slope` is the derivative of the activation; the gradients of both factors are stored.
    """
    gradients[f"{name}2"] = hidden.T @ d_y
    d_hidden = (d_y @ weights[f"{name}2"].T) * slope
    gradients[f"{name}1"] = x.T @ d_hidden
    result: Array = d_hidden @ weights[f"{name}1"].T
    return result


def token_lerp_gradients(
    shifted: Gradients,
    weights: Weights,
    x: Array,
    last: Array,
    d_state: LayerState,
    field: str,
    gradients: Gradients,
) -> Array:
    """Gradient of x, which tokens are shifted from: by the name of the mix, the gradients of x + (prev - x) * mix.

    The gradients of the mixes are stored. d_state[field], that of the last token as the state keeps it, is added to the
    result and replaced by the gradient of `last`.
    """
    d_x = np.zeros_like(x)
    d_x[-1] += d_state[field]
    d_state[field] = np.zeros_like(last)
    for name, d in shifted.items():
        through = d * weights[name].reshape(-1)
        gradients[name] = (d * (previous(x, last) - x)).sum(axis=0)
        d_x += d - through
        d_x[:-1] += through[1:]
        d_state[field] = d_state[field] + through[0]
    return d_x


def run_gradient(
    parameters: Weights,
    config: Any,
    tokens: Sequence[int],
    state: Sequence[LayerState],
    mixes: tuple[Mix, Mix],
    gradients_of: tuple[MixGradient, MixGradient],
    d_logits: Array,
    d_state: Sequence[LayerState],
) -> Gradients:
    """Return the gradients of the parameters, given that of the logits (time, vocab_size).

    `state` is the one before the tokens; `d_state` becomes its gradient. Fields and arrays are as for
    :func:`rwkv_cy.kernels.reference.common.run`.
    """
    eps, halve_after = config.layer_norm_eps, config.rescale_layer
    wide = {name: np.asarray(array, np.float64) for name, array in parameters.items()}
    ids = np.asarray(tokens, np.int64)
    x, shared = wide["emb.weight"][ids], Shared(tokens=ids)
    inputs: list[tuple[Array, Shared]] = []  # of each mix, before its LayerNorm
    layers = [
        {name.removeprefix(f"blocks.{i}."): array for name, array in wide.items() if name.startswith(f"blocks.{i}.")}
        for i in range(len(state))
    ]
    scales = [0.5 ** (i // halve_after) if halve_after else 1.0 for i in range(len(state))]
    halved = [bool(halve_after) and (i + 1) % halve_after == 0 for i in range(len(state))]
    embedding = x
    for weights, own, scale, halve in zip(layers, state, scales, halved, strict=True):
        own = dict(own)
        if "ln0.weight" in weights:
            x = layer_norm(x, weights["ln0.weight"], weights["ln0.bias"], eps)
        shared.setdefault("embedded", x)
        for norm, mix in zip(("ln1", "ln2"), mixes, strict=True):
            inputs.append((x, Shared(shared)))
            normed = layer_norm(x, weights[f"{norm}.weight"], weights[f"{norm}.bias"], eps)
            x = x + scale * mix(normed, own, weights, shared)
        if halve:
            x = x / 2

    result: Gradients = {}
    normed = layer_norm(x, wide["ln_out.weight"], wide["ln_out.bias"], eps)
    d_normed = matmul_gradient("head.weight", wide, normed, d_logits, result)
    d_x, result["ln_out.weight"], result["ln_out.bias"] = layer_norm_gradient(x, wide["ln_out.weight"], eps, d_normed)
    d_shared = Shared({name: np.zeros_like(array) for name, array in shared.items() if array.dtype == np.float64})
    for i in reversed(range(len(state))):
        weights, prefix = layers[i], f"blocks.{i}."
        if halved[i]:
            d_x = d_x / 2
        for norm, gradient in reversed(list(zip(("ln1", "ln2"), gradients_of, strict=True))):
            x, before = inputs.pop()
            normed = layer_norm(x, weights[f"{norm}.weight"], weights[f"{norm}.bias"], eps)
            d_normed, own_gradients = gradient(normed, state[i], weights, before, scales[i] * d_x, d_state[i], d_shared)
            through, own_gradients[f"{norm}.weight"], own_gradients[f"{norm}.bias"] = layer_norm_gradient(
                x, weights[f"{norm}.weight"], eps, d_normed
            )
            d_x = d_x + through
            result.update({prefix + name: array for name, array in own_gradients.items()})
    if "blocks.0.ln0.weight" in wide:
        d_x = d_x + d_shared["embedded"]
        d_x, *rest = layer_norm_gradient(embedding, wide["blocks.0.ln0.weight"], eps, d_x)
        result["blocks.0.ln0.weight"], result["blocks.0.ln0.bias"] = rest
    result["emb.weight"] = np.zeros_like(wide["emb.weight"])
    np.add.at(result["emb.weight"], ids, d_x)
    return result
