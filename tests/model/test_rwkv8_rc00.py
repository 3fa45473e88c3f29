"""RWKV-8 rc00 against its equations, written out here token by token in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from checkpoints import random_checkpoint
from contracts.cases import every_logits, tokens_for
from rwkv7_shapes import SMALL
from rwkv_cy.config import Config
from rwkv_cy.model.language_model import LanguageModel
from rwkv_package import assert_close

CONFIGS = {name: replace(config, architecture="rwkv8_rc00") for name, config in SMALL.items()}
TOKENS = 200
Weights = dict[str, np.ndarray]


def norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + eps) * weight + bias


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class Equations:
    """The model of these parameters; `step` takes one token."""

    def __init__(self, parameters: Weights, config: Config) -> None:
        self.z = {name: array.astype(np.float64).squeeze() for name, array in parameters.items()}
        self.heads, self.size = parameters["blocks.0.att.r_k"].shape
        c, shape = config.d_model, (self.heads, self.size, self.size)
        self.att = [np.zeros(c) for _ in range(config.num_layers)]
        self.ffn = [np.zeros(c) for _ in range(config.num_layers)]
        # [head][value, key]
        self.s = [
            self.z.get(f"blocks.{i}.att.time_state", np.zeros(shape)).reshape(shape) for i in range(config.num_layers)
        ]

    def step(self, token: int) -> np.ndarray:
        z = self.z
        x = norm(z["emb.weight"][token], z["blocks.0.ln0.weight"], z["blocks.0.ln0.bias"])
        v_first = np.zeros(0)
        for i in range(len(self.s)):
            p = f"blocks.{i}."
            y = norm(x, z[p + "ln1.weight"], z[p + "ln1.bias"])
            out, v_first = self.time_mix(i, p + "att.", y, v_first)
            x = x + out
            y = norm(x, z[p + "ln2.weight"], z[p + "ln2.bias"])
            f = p + "ffn."
            k = z[f + "key.weight"] @ (y + (self.ffn[i] - y) * z[f + "x_k"])
            self.ffn[i] = y
            # What rc00 adds to RWKV-7: a vector of the token scales the result.
            x = x + (z[f + "value.weight"] @ np.where(k > 0, k * k, 0.0)) * z[f + "enn.weight"][token]
        return z["head.weight"] @ norm(x, z["ln_out.weight"], z["ln_out.bias"])

    def time_mix(self, i: int, p: str, x: np.ndarray, v_first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z, n = self.z, self.size

        def shifted(name: str) -> np.ndarray:
            return x + (self.att[i] - x) * z[p + "x_" + name]

        r = z[p + "receptance.weight"] @ shifted("r")
        k = z[p + "key.weight"] @ shifted("k")
        v = z[p + "value.weight"] @ shifted("v")
        w = self.low_rank(p + "w", np.tanh, shifted("w"))
        w = np.exp(-np.exp(-0.5) * logistic(z[p + "w0"] + w))
        a = logistic(z[p + "a0"] + self.low_rank(p + "a", None, shifted("a")))
        g = self.low_rank(p + "g", logistic, shifted("g"))
        kk = k * z[p + "k_k"]
        k = k * (1 + (a - 1) * z[p + "k_a"])
        if i == 0:
            v_first = v
        else:
            v = v + (v_first - v) * logistic(z[p + "v0"] + self.low_rank(p + "v", None, shifted("v")))
        self.att[i] = x
        out = np.empty_like(v)
        state = np.empty_like(self.s[i])
        for h in range(self.heads):
            own = slice(h * n, (h + 1) * n)
            unit = kk[own] / max(np.linalg.norm(kk[own]), 1e-12)
            s = self.s[i][h]
            s = s * w[own] - np.outer(s @ unit, unit * a[own]) + np.outer(v[own], k[own])
            bonus = (r[own] * k[own] * z[p + "r_k"].reshape(self.heads, n)[h]).sum() * v[own]
            out[own] = norm(s @ r[own], z[p + "ln_x.weight"][own], z[p + "ln_x.bias"][own], 64e-5) + bonus
            state[h] = s
        self.s[i] = state
        return z[p + "output.weight"] @ (out * g), v_first

    def low_rank(self, name: str, function: object, x: np.ndarray) -> np.ndarray:
        hidden = x @ self.z[name + "1"]
        return (hidden if function is None else function(hidden)) @ self.z[name + "2"]  # type: ignore[operator]


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_states(name: str) -> None:
    config = CONFIGS[name]
    parameters = random_checkpoint(config, seed=3)
    model, equations = LanguageModel(config, parameters), Equations(parameters, config)
    tokens = tokens_for(model, TOKENS)
    expected = np.array([equations.step(token) for token in tokens])
    rows, state = [], None
    for token in tokens:
        logits, state = model.forward(token, state, in_place=True)
        rows.append(logits)
    assert state is not None
    assert_close(np.array(rows), expected)
    whole, after = every_logits(model, tokens)
    assert_close(whole, expected)
    first, middle = every_logits(model, tokens[:77])
    second, last = every_logits(model, tokens[77:], middle)
    assert_close(np.concatenate([first, second]), expected)
    for result in (state, after, last):
        for layer, att, ffn, s in zip(result.layers, equations.att, equations.ffn, equations.s, strict=True):
            assert_close(layer["att_xx"], att)
            assert_close(layer["ffn_xx"], ffn)
            assert_close(layer["att_kv"], s)
