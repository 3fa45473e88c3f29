"""RWKV-4 in plain NumPy, float32: the baseline of the benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import storage_type, widen
from rwkv_cy.tensors.tensor import ParameterSource

__all__ = ["PlainNumpy", "read_float32"]

Array = npt.NDArray[Any]  # float32
#: State of one layer: ffn_xx, att_xx, aa, bb, pp.
LayerState = list[Array]


def read_float32(source: ParameterSource) -> dict[str, Array]:
    """Read every parameter of an open model file into memory, in float32."""
    parameters = {}
    for name in source.names():
        info = source.info(name)
        buffer = np.empty(info.size, storage_type(info.dtype).array_dtype)
        source.read_into(name, buffer)
        array = widen(buffer, info.dtype).reshape(info.array_shape)
        parameters[name] = np.ascontiguousarray(array.T) if info.transposed else array
    return parameters


class PlainNumpy:
    """A language model in which every step is a NumPy expression.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        Every parameter by canonical name, float32.
    """

    def __init__(self, parameters: Mapping[str, npt.NDArray[Any]]) -> None:
        self.p = {name: value.reshape(-1) if "time_mix" in name else value for name, value in parameters.items()}
        self.num_layers = 1 + max(int(name.split(".")[1]) for name in self.p if name.startswith("blocks."))
        for i in range(self.num_layers):
            self.p[f"blocks.{i}.att.time_decay"] = -np.exp(self.p[f"blocks.{i}.att.time_decay"])

    def initial_state(self) -> list[LayerState]:
        """Return the state before the first token."""
        width, attention = self.p["emb.weight"].shape[1], self.p["blocks.0.att.key.weight"].shape[0]
        zeros = [np.zeros(size, np.float32) for size in (width, width, attention, attention)]
        return [[*zeros, np.full(attention, -1e30, np.float32)] for _ in range(self.num_layers)]

    def forward(self, tokens: Sequence[int], state: list[LayerState]) -> Array:
        """Return the logits after the last token; `state` is updated in place.

        One token is a chain of matrix-vector products; several are matrix products, with a loop over time where the
        recurrence needs it.
        """
        one = len(tokens) == 1
        x = self.p["emb.weight"][tokens[0] if one else np.asarray(tokens)]
        x = self._norm(x, "blocks.0.ln0")
        time_mix, shift = (self._time_mix_one, _shift_one) if one else (self._time_mix_many, _shift_many)
        for i, layer in enumerate(state):
            x = x + time_mix(self._norm(x, f"blocks.{i}.ln1"), f"blocks.{i}.att.", layer)
            normed = self._norm(x, f"blocks.{i}.ln2")
            x = x + self._channel_mix(normed, shift(normed, layer, 0), f"blocks.{i}.ffn.")
        logits: Array = self.p["head.weight"] @ self._norm(x if one else x[-1], "ln_out")
        return logits

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.mean(centred * centred, axis=-1, keepdims=True)
        return centred / np.sqrt(variance + np.float32(1e-5)) * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def _mixed(self, x: Array, previous: Array, name: str) -> Array:
        m = self.p[name]
        return x * m + previous * (1 - m)

    def _channel_mix(self, x: Array, previous: Array, name: str) -> Array:
        k = np.maximum(self._mixed(x, previous, f"{name}time_mix_k") @ self.p[f"{name}key.weight"].T, 0)
        r = _sigmoid(self._mixed(x, previous, f"{name}time_mix_r") @ self.p[f"{name}receptance.weight"].T)
        return r * ((k * k) @ self.p[f"{name}value.weight"].T)

    def _projections(self, x: Array, previous: Array, name: str) -> tuple[Array, Array, Array]:
        k = self._mixed(x, previous, f"{name}time_mix_k") @ self.p[f"{name}key.weight"].T
        v = self._mixed(x, previous, f"{name}time_mix_v") @ self.p[f"{name}value.weight"].T
        r = _sigmoid(self._mixed(x, previous, f"{name}time_mix_r") @ self.p[f"{name}receptance.weight"].T)
        return k, v, r

    def _time_mix_one(self, x: Array, name: str, layer: LayerState) -> Array:
        k, v, r = self._projections(x, _shift_one(x, layer, 1), name)
        return (r * self._wkv(k, v, name, layer)) @ self.p[f"{name}output.weight"].T

    def _time_mix_many(self, x: Array, name: str, layer: LayerState) -> Array:
        k, v, r = self._projections(x, _shift_many(x, layer, 1), name)
        wkv = np.empty_like(v)
        for t in range(len(x)):
            wkv[t] = self._wkv(k[t], v[t], name, layer)
        return (r * wkv) @ self.p[f"{name}output.weight"].T

    def _wkv(self, k: Array, v: Array, name: str, layer: LayerState) -> Array:
        aa, bb, pp = layer[2:]
        u, w = self.p[f"{name}time_first"], self.p[f"{name}time_decay"]
        # wkv = (e^{pp-p} aa + e^{u+k-p} v) / (e^{pp-p} bb + e^{u+k-p}),  p = max(pp, u + k)
        p = np.maximum(pp, u + k)
        e1, e2 = np.exp(pp - p), np.exp(u + k - p)
        wkv = (e1 * aa + e2 * v) / (e1 * bb + e2)
        # aa = e^{pp+w-p} aa + e^{k-p} v,  bb likewise,  pp = p = max(pp + w, k)
        p = np.maximum(pp + w, k)
        e1, e2 = np.exp(pp + w - p), np.exp(k - p)
        layer[2:] = [e1 * aa + e2 * v, e1 * bb + e2, p]
        return wkv


def _shift_one(x: Array, layer: LayerState, field: int) -> Array:
    previous, layer[field] = layer[field], x
    return previous


def _shift_many(x: Array, layer: LayerState, field: int) -> Array:
    previous = np.concatenate((layer[field][np.newaxis], x[:-1]))
    layer[field] = x[-1]
    return previous


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
