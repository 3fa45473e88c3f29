"""Adapters for tests, and what merging them gives, in plain NumPy: the formulas written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
RNG = np.random.default_rng

KEY, FFN_VALUE, FFN_KEY = "blocks.1.att.key", "blocks.1.ffn.value", "blocks.2.ffn.key"


def draw(*shape: int, seed: int = 0) -> Array:
    """Return numbers of about 0.1, float32."""
    return (0.1 * RNG([seed, *shape]).standard_normal(shape)).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """One adapter.

    Attributes
    ----------
    adapter : mapping
        Its tensors.
    merged : callable
        From the float64 weights of a model to the merged ones of the parameters that change.
    options : mapping
        Arguments of merge.
    initial : mapping
        Tensors of PiSSA's file of initial factors, where there is one.
    """

    adapter: Mapping[str, Array]
    merged: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    options: Mapping[str, Any] = field(default_factory=dict)
    initial: Mapping[str, Array] | None = None


def blocks_of(w: Array, r: int) -> dict[tuple[int, int], Array]:
    """Return the blocks of r rows and columns of a matrix, as views."""
    rows, columns = w.shape
    return {(a, b): w[a * r : (a + 1) * r, b * r : (b + 1) * r] for a in range(rows // r) for b in range(columns // r)}


def add_bone(w: Array, d: Array) -> Array:
    """Return W with D (r, out) added to every block of r inputs."""
    result = w.copy()
    for column in range(w.shape[1]):
        result[:, column] += d[column % len(d)]
    return result


def add_bat(w: Array, d: Array, axis: int) -> Array:
    """Return W + W·D + D, block by block; D is that of the row (axis 0) or column (axis 1) of blocks."""
    result = w.copy()
    for place, block in blocks_of(result, d.shape[1]).items():
        block += block @ d[place[axis]] + d[place[axis]]
    return result


def lora() -> Case:
    """LoRA of a square matrix, one stored transposed and the head; a norm and a state trained as a whole."""
    a, b, factor = {}, {}, 16.0 / 4
    for seed, (name, rows, columns) in enumerate([(KEY, 128, 128), (FFN_VALUE, 128, 512), ("head", 90, 128)]):
        a[name], b[name] = draw(4, columns, seed=seed), draw(rows, 4, seed=seed)
    whole = {
        "blocks.0.ln1.weight": draw(128),
        "blocks.1.att.x_r": draw(1, 1, 128),
        "blocks.2.att.time_state": draw(2, 64, 64),
    }
    adapter = {f"{name}.lora_{letter}": t for letter, ts in (("A", a), ("B", b)) for name, t in ts.items()} | whole
    return Case(
        adapter,
        lambda w: (
            {f"{n}.weight": w[f"{n}.weight"] + factor * (b[n].astype("f8") @ a[n].astype("f8")) for n in a} | whole
        ),
        {"alpha": 16},
    )


def pissa() -> Case:
    """PiSSA: the trained product replaces the initial one."""
    a, b, a0, b0 = draw(8, 512), draw(128, 8), draw(8, 512, seed=1), draw(128, 8, seed=1)
    name = f"{FFN_VALUE}.weight"
    return Case(
        {f"{FFN_VALUE}.lora_A": a, f"{FFN_VALUE}.lora_B": b},
        lambda w: {name: w[name] + b.astype("f8") @ a.astype("f8") - b0.astype("f8") @ a0.astype("f8")},
        initial={f"model.{FFN_VALUE}.init_lora_A": a0, f"model.{FFN_VALUE}.init_lora_B": b0},
    )


def bone(suffix: str) -> Case:
    """Mode bone, with a last block of inputs that is cut, and one whole blocks fit."""
    one, other = draw(24, 128), draw(32, 128)
    return Case(
        {f"{KEY}.{suffix}": one, f"{FFN_VALUE}.{suffix}": other},
        lambda w: {
            f"{KEY}.weight": add_bone(w[f"{KEY}.weight"], one),
            f"{FFN_VALUE}.weight": add_bone(w[f"{FFN_VALUE}.weight"], other),
        },
    )


def bat(suffix: str) -> Case:
    """Mode bat: a matrix of more rows than columns, and one of more columns."""
    high, wide = draw(128 // 32, 32, 32), draw(512 // 32, 32, 32)
    return Case(
        {f"{FFN_KEY}.{suffix}": high, f"{FFN_VALUE}.{suffix}": wide},
        lambda w: {
            f"{FFN_KEY}.weight": add_bat(w[f"{FFN_KEY}.weight"], high, 1),
            f"{FFN_VALUE}.weight": add_bat(w[f"{FFN_VALUE}.weight"], wide, 1),
        },
    )


def bone_by_rows() -> Case:
    """The form before: blocks of rows; and the oldest, the same in two dimensions."""
    high, wide = draw(512 // 32, 32, 32), draw(128, 32)
    return Case(
        {f"{FFN_KEY}.bone": high, f"{FFN_VALUE}.bone": wide},
        lambda w: {
            f"{FFN_KEY}.weight": add_bat(w[f"{FFN_KEY}.weight"], high, 0),
            f"{FFN_VALUE}.weight": add_bat(w[f"{FFN_VALUE}.weight"], wide.reshape(-1, 32, 32), 0),
        },
    )


def square(blocks: str) -> Case:
    """A square matrix, whose blocks the caller tells."""
    d = draw(128 // 32, 32, 32)
    name = f"{KEY}.weight"
    axis = ("rows", "columns").index(blocks)
    return Case({f"{KEY}.bone": d}, lambda w: {name: add_bat(w[name], d, axis)}, {"bone_blocks": blocks})


def web_rwkv() -> Case:
    """LoRA in web-rwkv's names, the first factor stored (in, rank); vectors interpolated."""
    a, b, norm = draw(512, 4), draw(128, 4), draw(128)
    name = f"{FFN_VALUE}.weight"
    return Case(
        {f"{name}.lora.0": a, f"{name}.lora.1": b, "ln_out.bias": norm},
        lambda w: {
            name: w[name] + 192 / 4 * (b.astype("f8") @ a.T.astype("f8")),
            "ln_out.bias": 0.75 * w["ln_out.bias"] + 0.25 * norm,
        },
        {"alpha": 192, "weight": 0.25},
    )


CASES = {
    "LoRA": lora(),
    "PiSSA": pissa(),
    "DiSHA bone": bone("disha"),
    "DiSHA bat": bat("disha"),
    "bone": bone("bone"),
    "bone, bat by columns": bat("bone"),
    "bone, bat by rows": bone_by_rows(),
    "bone, square by rows": square("rows"),
    "bone, square by columns": square("columns"),
    "web-rwkv": web_rwkv(),
}
