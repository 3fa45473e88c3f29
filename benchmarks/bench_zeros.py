"""Zeros in the hidden vector of the channel mix: their share, and what a transposed value matrix gains from them.

The demo model is run over its held-out text and its zeros are counted. For speed, a model of an official shape is made
in memory twice, with the same random parameters: once with every matrix by rows, once with ``ffn.value.weight``
transposed, as model files have it. The weight of ``ln2`` is zero and its bias one, so that each unit of the hidden
vector is the sum of its row of ``ffn.key.weight``: the sign of a row says whether the unit is zero.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.checkpoints import DTYPES, SHAPES, name_of
from benchmarks.plain_numpy import PlainNumpy, read_float32
from benchmarks.report import Report, median, ratio
from rwkv_cy import Config, LanguageModel
from rwkv_cy.architectures import architecture_of
from rwkv_cy.checkpoint.checkpoint import open_source
from rwkv_cy.demo import demo_model_path
from rwkv_cy.dtypes import array_dtype, to_storage
from rwkv_cy.kernels.matrix import Matrix, Workspace, transposed
from rwkv_cy.tensors.tensor import Parameter

_SHARES = (0.0, 0.5, 0.7)
_DECODED = 8
_COUNTED = 2048
_PAGE = 4096
_SIGN = {"f32": np.uint32(1 << 31), "f16": np.uint16(1 << 15), "bf16": np.uint16(1 << 15)}


class _Counting(PlainNumpy):
    """The NumPy model, extended to record the share of zeros of every layer."""

    def __init__(self, parameters: Mapping[str, npt.NDArray[Any]]) -> None:
        super().__init__(parameters)
        self.shares: dict[str, float] = {}

    def _channel_mix(self, x: Any, previous: Any, name: str) -> Any:
        k = self._mixed(x, previous, f"{name}time_mix_k") @ self.p[f"{name}key.weight"].T
        self.shares[name] = float((k <= 0).mean())
        return super()._channel_mix(x, previous, name)


def count_zeros(tokens: int) -> list[float]:
    """Return the share of zeros in each layer of the demo model, over this many bytes of its held-out text."""
    with open_source(demo_model_path()) as source:
        model = _Counting(read_float32(source))
    text = Path("data/kjv-heldout.txt").read_bytes()[:tokens]
    model.forward(list(text), model.initial_state())
    return list(model.shares.values())


def _aligned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a page-aligned copy, as every matrix of a mapped model file is."""
    memory = np.empty(array.nbytes + _PAGE, np.uint8)
    start = -memory.ctypes.data % _PAGE
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class Pair:
    """Two models, and the matrices in which they differ."""

    def __init__(self, config: Config, dtype: str) -> None:
        self.dtype = dtype
        rng = np.random.default_rng(0)
        draw = rng.standard_normal(1 << 20, np.float32) * np.float32(0.02)
        parameters = {}
        for spec in architecture_of(config).parameters(config):
            size = int(np.prod(spec.shape))
            numbers = np.resize(np.roll(draw, len(parameters)), size) if spec.kind != "vector" else np.zeros(size)
            if spec.name.endswith((".ln2.bias", "ln1.weight", "ln0.weight", "ln_out.weight")):
                numbers[:] = 1
            array = to_storage(numbers.astype(np.float32), "f32", dtype).reshape(spec.shape)
            parameters[spec.name] = Parameter(_aligned(array), dtype)
        self.keys = [p.array for name, p in parameters.items() if name.endswith("ffn.key.weight")]
        column_major = {
            name: Parameter(_aligned(transposed(p.array)), dtype, transposed=True)
            for name, p in parameters.items()
            if name.endswith("ffn.value.weight")
        }
        self.models = (LanguageModel(config, parameters), LanguageModel(config, {**parameters, **column_major}))
        self.products = tuple(
            [Matrix(p.array, dtype, transposed=p.transposed) for p in group]
            for group in ([parameters[name] for name in column_major], list(column_major.values()))
        )
        self._rng = rng

    def set_zeros(self, share: float) -> None:
        """Make this share of the hidden units zero in every layer."""
        sign = _SIGN[self.dtype]
        for key in self.keys:
            bits = key.view(array_dtype("bf16") if sign.itemsize == 2 else np.uint32)
            bits &= ~sign
            bits[self._rng.random(len(key)) < share] |= sign

    def decode_seconds(self, threads: int, rounds: int) -> list[list[float]]:
        """Return the seconds of a token, alternating; row-major first."""
        found: list[list[float]] = [[], []]
        for _ in range(rounds):
            logits = []
            for model, times in zip(self.models, found, strict=True):
                _, state = model.forward([1], num_threads=threads)
                taken = []
                for token in range(2, 2 + _DECODED):
                    start = time.perf_counter()
                    last, state = model.forward([token], state, num_threads=threads)
                    taken.append(time.perf_counter() - start)
                times.append(median(taken))
                logits.append(last.tobytes())
            if logits[0] != logits[1]:
                raise SystemExit("bench_zeros: the two models disagree")
        return found

    def product_seconds(self, share: float, threads: int, rounds: int) -> list[list[float]]:
        """Return the seconds of the value products of all layers, alternating; row-major first."""
        hidden: npt.NDArray[np.float32] = np.ones((1, self.products[0][0].shape[1]), np.float32)
        hidden[self._rng.random(hidden.shape) < share] = 0
        found: list[list[float]] = [[], []]
        workspace = Workspace()
        for _ in range(rounds):
            for matrices, times in zip(self.products, found, strict=True):
                start = time.perf_counter()
                for matrix in matrices:
                    matrix.matmul(hidden, threads, workspace)
                times.append(time.perf_counter() - start)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_zeros", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="169m")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=("f32", "bf16"))
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    shares = count_zeros(_COUNTED)
    layers = ", ".join(f"{share:.0%}" for share in shares)
    report = Report(
        f"{name_of(arguments.shape)}: decode with zeros in the hidden vector, value matrix transposed beside by rows",
        (
            "",
            "threads",
            "zeros",
            "decode, times as fast",
            "value products, times as fast",
            "decode by rows, ms",
            "decode transposed, ms",
        ),
        notes=[
            f"The demo model over {_COUNTED} bytes of its held-out text: {np.mean(shares):.0%} zeros ({layers}).",
            f"Medians of {arguments.rounds} rounds, alternating; ratios within a round; the logits are equal.",
        ],
        values={"zeros_of_the_demo_model": shares, "rows": []},
    )
    for dtype in arguments.dtypes:
        pair = Pair(SHAPES[arguments.shape], dtype)
        for threads in arguments.threads:
            for share in _SHARES:
                pair.set_zeros(share)
                rows, columns = pair.decode_seconds(threads, arguments.rounds)
                products = pair.product_seconds(share, threads, 3 * arguments.rounds)
                report.rows.append(
                    (
                        dtype,
                        str(threads),
                        f"{share:.0%}",
                        f"{ratio(rows, columns):.2f}",
                        f"{ratio(*products):.2f}",
                        f"{median(rows) * 1e3:.1f}",
                        f"{median(columns) * 1e3:.1f}",
                    )
                )
                report.values["rows"].append(
                    {"dtype": dtype, "threads": threads, "zeros": share, "rows": rows, "transposed": columns}
                    | {"products": products}
                )
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
