"""The cost of four to eight bits: errors of the weights, and divergence from float32 at as many bytes a token.

The types of this package run in its kernels. Those of llama.cpp are quantized by the package's encoders, which give the
bits of its Q4_0, Q5_0 and Q8_0 and the errors of its Q4_K to Q6_K, and multiplied in float32 with exact activations,
which favours them. Low-rank factors are q8 in quantized models of this package, and float32 in files of llama.cpp.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.checkpoints import FOLDER, SHAPES, cached_checkpoint
from benchmarks.report import Report
from rwkv_cy import LanguageModel, load
from rwkv_cy.architectures import architecture_of
from rwkv_cy.demo import demo_model_path
from rwkv_cy.dtypes import QUANTIZED_TYPES, widen
from rwkv_cy.formats.ggml import BLOCK_TYPES
from rwkv_cy.formats.ggml.encode import encode_blocks
from rwkv_cy.kernels.matrix import pack, unpack
from rwkv_cy.runtime import get_num_threads
from rwkv_cy.tensors.codecs import CODECS, GroupedCodec
from rwkv_cy.tensors.rounding import Rounding, measure_rounding
from rwkv_cy.tensors.tensor import Parameter
from rwkv_cy.toolkit.calibration import Calibration, calibrate
from rwkv_cy.toolkit.divergence import divergence

_TEXT = Path("data") / "kjv-heldout.txt"
#: The text that is calibrated with, and the one that is predicted, of the demo model.
_CALIBRATED, _PREDICTED = slice(0, 20_000), slice(60_000, None)
GROUPED = {name: codec for name, codec in CODECS.items() if isinstance(codec, GroupedCodec)}
#: Type of the matrices and of the head; a plus stands for calibration.
OURS = ("q8 q8", "q6 q6", "q4n q6", "q4n q4n", "q4n+ q4n+", "q4 q4")
THEIRS = ("q8_0 q8_0", "q6_k q6_k", "q5_k q6_k", "q4_k q6_k", "q4_k q4_k", "q4_0 q6_k", "q4_0 q4_0")

Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Cost:
    """Results for one pair of types.

    Attributes
    ----------
    label : str
    bits : float
        A weight of all matrices, on the average.
    token_bytes : int
        Of all that decode reads for a token: matrices, vectors and a row of the embedding.
    relative : float
        Relative error of the weights.
    kl : float
        Divergence from float32, nats per token.
    """

    label: str
    bits: float
    token_bytes: int
    relative: float
    kl: float


class Bench:
    """One model in float32, and what is measured beside it."""

    def __init__(self, path: Path, tokens: npt.NDArray[Any], threads: int, calibration: Calibration | None) -> None:
        self._reference = load(path, dtype="f32")
        config = self._reference.config
        self._specs = {spec.name: spec for spec in architecture_of(config).parameters(config)}
        self._tokens, self._threads, self._calibration = tokens, threads, calibration

    def measure(self, family: str, types: str) -> Cost | None:
        """Measure a pair of types; None if it is calibrated, and there is not a text for the model."""
        body, head = types.split()
        if "+" in types and self._calibration is None:
            return None
        parameters: dict[str, Parameter] = {}
        total, size, nbytes, other = Rounding(), 0, 0, 0
        for name, parameter in self._reference.parameters.items():
            spec = self._specs[name]
            if spec.kind == "low_rank" and family == "rwkv_cy":
                parameters[name] = _factor(parameter, CODECS[body.removesuffix("+")].factor_type)
                other += parameters[name].array.nbytes
                continue
            if not spec.quantizable:
                parameters[name] = parameter
                rows = parameter.shape[0] if spec.kind in ("embedding", "table") else 1
                other += parameter.array.nbytes // rows
                continue
            weights = _canonical(parameter)
            chosen = head if spec.kind == "head" else body
            parameters[name], decoded, stored = self._quantized(name, weights, family, chosen)
            total += measure_rounding(weights, "f32", decoded, "f32")
            size, nbytes = size + weights.size, nbytes + stored
        with LanguageModel(self._reference.config, parameters) as model:
            report = divergence(self._reference, model, self._tokens, num_threads=self._threads)
        names = body if body == head else f"{body}, head {head}"
        return Cost(f"{family}, {names}", 8 * nbytes / size, nbytes + other, total.relative, report.kl)

    def _quantized(self, name: str, weights: Numbers, family: str, dtype: str) -> tuple[Parameter, Numbers, int]:
        """Return a matrix as it is used, its numbers, and the bytes that store it."""
        if family == "rwkv_cy":
            inputs = self._calibration.inputs[name] if self._calibration and dtype.endswith("+") else None
            dtype = dtype.removesuffix("+")
            packed = GROUPED[dtype].encode_rows(weights, name, inputs)
            return Parameter(packed, dtype, weights.shape), unpack(packed, dtype, weights.shape), packed.nbytes
        block = BLOCK_TYPES[dtype]
        blocks = encode_blocks(dtype, weights.reshape(-1, block.size), name)
        decoded = block.decode(blocks).reshape(weights.shape)
        return Parameter(decoded, "f32"), decoded, blocks.nbytes


def _factor(parameter: Parameter, dtype: str | None) -> Parameter:
    """Return a low-rank factor as a model file has it beside quantized matrices."""
    if dtype is None or len(parameter.shape) != 2:
        return parameter
    packed = pack(np.ascontiguousarray(_canonical(parameter).T), dtype)
    return (
        Parameter(packed, dtype, parameter.shape, transposed=True)
        if packed.nbytes < parameter.array.nbytes
        else parameter
    )


def _canonical(parameter: Parameter) -> Numbers:
    numbers = widen(parameter.array, parameter.dtype, "f32")
    result: Numbers = np.ascontiguousarray(numbers.T if parameter.transposed else numbers)
    return result


def normal_errors(shape: tuple[int, int] = (512, 1024)) -> Mapping[str, float]:
    """Return the relative error of each type for normally distributed weights."""
    weights = np.random.default_rng(0).standard_normal(shape, np.float32) * np.float32(0.02)
    decode: dict[str, Callable[[], Numbers]] = {
        dtype: lambda dtype=dtype: unpack(pack(weights, dtype), dtype, shape)  # type: ignore[misc]
        for dtype in QUANTIZED_TYPES
    }
    for dtype in ("q8_0", "q6_k", "q5_k", "q4_k", "q4_0"):
        block = BLOCK_TYPES[dtype]
        decode[dtype] = lambda block=block: block.decode(  # type: ignore[misc]
            encode_blocks(block.name, weights.reshape(-1, block.size), "weights")
        ).reshape(shape)
    return {dtype: measure_rounding(weights, "f32", numbers(), "f32").relative for dtype, numbers in decode.items()}


def bench_of(name: str, folder: Path, count: int, threads: int) -> Bench:
    """Return the demo model with its text, or a synthetic model of a shape with random tokens."""
    if name == "demo":
        text = np.frombuffer(_TEXT.read_bytes(), np.uint8)
        calibration = calibrate(demo_model_path(), text[_CALIBRATED], num_threads=threads)
        return Bench(demo_model_path(), text[_PREDICTED][:count], threads, calibration)
    tokens = np.random.default_rng(0).integers(0, SHAPES[name].vocab_size, count)
    return Bench(cached_checkpoint(name, "f32", folder), tokens, threads, None)


def report_of(found: Mapping[str, Sequence[Cost]], normal: Mapping[str, float], tokens: int) -> Report:
    """Return the table."""
    report = Report(
        "Quantized types at as many bytes a token: errors of the weights, and divergence from float32",
        ("model", "types", "bits a weight", "MB a token", "relative error", "KL divergence"),
        notes=[
            f"KL divergence: nats per token over {tokens:,} tokens: held-out text, random ones in synthetic models.",
            "A plus: calibrated with another part of the text. llama.cpp: its encodings, multiplied in float32.",
            "Relative errors of normally distributed weights: "
            + ", ".join(f"{dtype} {error:.4f}" for dtype, error in normal.items()),
        ],
        values={"models": {name: [asdict(one) for one in costs] for name, costs in found.items()}, "normal": normal},
    )
    for name, costs in found.items():
        for one in sorted(costs, key=lambda cost: -cost.token_bytes):
            size = f"{one.token_bytes / 1e6:.3f}"
            report.rows.append((name, one.label, f"{one.bits:.2f}", size, f"{one.relative:.4f}", f"{one.kl:.2e}"))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_bits", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=("demo", *SHAPES), default=("demo", "169m", "7-0.1b"))
    parser.add_argument("--tokens", type=int, default=4096, help="that are predicted")
    parser.add_argument("--threads", type=int, default=get_num_threads())
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoints")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, list[Cost]] = {}
    for name in arguments.models:
        bench = bench_of(name, arguments.folder, arguments.tokens, arguments.threads)
        pairs = [("rwkv_cy", types) for types in OURS] + [("llama.cpp", types) for types in THEIRS]
        found[name] = [cost for pair in pairs if (cost := bench.measure(*pair)) is not None]
    report_of(found, normal_errors(), arguments.tokens).print(as_json=arguments.json)


if __name__ == "__main__":
    main()
