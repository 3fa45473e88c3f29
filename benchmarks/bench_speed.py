"""Decode and prefill beside plain NumPy, ``rwkv`` where it is there, and the machine's limits, all in one run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import limits
from benchmarks.checkpoints import DTYPES, FOLDER, SHAPES, cached_checkpoint, cached_model
from benchmarks.report import Report, median, ratio
from benchmarks.worker import Worker
from rwkv_cy import Config
from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.dtypes import GROUP_ROWS, MATRIX_TYPES, PACKED, QUANTIZED_TYPES, storage_type

_DECODED = 16
_PREFILLS = (128, 512)
#: All contenders get the same tokens: those that a text begins with matter to nobody's speed.
_TOKENS = [int(token) for token in np.random.default_rng(0).integers(0, 50277, max(_PREFILLS))]
_YARDSTICK = ("plain NumPy", "f32")


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    contender: str
    label: str
    dtype: str
    path: Path
    python: str | None = None


def measure(
    rows: Sequence[Row], threads: int, rounds: int
) -> tuple[dict[Row, dict[str, list[float]]], dict[Row, float]]:
    """Return seconds a token of each job, a number a round, and how far the logits are from the yardstick's.

    All contenders are up at the same time and take turns within a round; those that wait do nothing.
    """
    found: dict[Row, dict[str, list[float]]] = {row: {} for row in rows}
    with ExitStack() as stack:
        workers = {
            row: stack.enter_context(Worker(row.contender, row.path, row.dtype, threads, row.python)) for row in rows
        }
        logits = {row: np.asarray(worker.logits(_TOKENS[:8])) for row, worker in workers.items()}
        for _ in range(rounds):
            for row, worker in workers.items():
                worker.seconds(_TOKENS[:1], keep_state=False)
                taken = [worker.seconds([token], keep_state=True) for token in _TOKENS[:_DECODED]]
                found[row].setdefault("decode", []).append(median(taken))
            for count in _PREFILLS:
                for row, worker in workers.items():
                    seconds = worker.seconds(_TOKENS[:count], keep_state=False)
                    found[row].setdefault(f"prefill {count}", []).append(seconds / count)
    exact = next(values for row, values in logits.items() if (row.label, row.dtype) == _YARDSTICK)
    scale = float(np.sqrt(np.mean(exact**2)))
    return found, {row: float(np.sqrt(np.mean((own - exact) ** 2))) / scale for row, own in logits.items()}


def bytes_per_weight(dtype: str) -> float:
    """Return the bytes that a weight takes, the steps of its block included."""
    if dtype in QUANTIZED_TYPES:
        quantized = QUANTIZED_TYPES[dtype]
        return quantized.block_bytes / (quantized.columns * GROUP_ROWS)
    return 1.5 if dtype == PACKED else storage_type(dtype).itemsize


def best_times(config: Config, dtype: str, bound: limits.Limits) -> tuple[float, float]:
    """Return the seconds a token that the limits allow: decode, where each weight is read once, and prefill in fp32."""
    specs = ARCHITECTURES[config.architecture].parameters(config)
    weights = {spec.name: float(np.prod(spec.shape)) for spec in specs if spec.role == "matrix"}
    decode = sum(weights.values()) * bytes_per_weight(dtype) / bound.read_bytes
    # A prompt needs the logits of its last token only: the head is left out.
    prefill = 2 * (sum(weights.values()) - weights["head.weight"]) / bound.flops
    return decode, prefill


def report_of(
    shape: str,
    threads: int,
    rounds: int,
    found: dict[Row, dict[str, list[float]]],
    errors: dict[Row, float],
    bound: limits.Limits,
) -> Report:
    """Return the table for one number of threads."""
    jobs = ("decode", *(f"prefill {count}" for count in _PREFILLS))
    report = Report(
        f"RWKV-4 {shape}, {threads} thread{'s' if threads > 1 else ''}: speed beside plain NumPy in float32",
        (
            "",
            *(f"{job}, times NumPy" for job in jobs),
            "decode, of the bandwidth",
            "decode, ms a token",
            *(f"{job}, tokens/s" for job in jobs[1:]),
            "error of the logits",
        ),
        notes=[
            f"Medians of {rounds} rounds, alternating; ratios within a round. Decode: the median of {_DECODED} tokens.",
            f"Limits in this run: {bound.read_bytes / 1e9:.1f} GB/s read, {bound.flops / 1e9:.0f} GFLOP/s in float32.",
            "Of the bandwidth: the time that reading each weight once takes at that limit, over the time taken.",
            "Error: relative rms of the logits after 8 tokens, beside plain NumPy on the float32 checkpoint.",
        ],
        values={"threads": threads, "limits": asdict(bound), "rows": []},
    )
    yardstick = next(times for row, times in found.items() if (row.label, row.dtype) == _YARDSTICK)
    for row, times in found.items():
        decode, prefill = best_times(SHAPES[shape], row.dtype, bound)
        multiples = [ratio(yardstick[job], times[job]) for job in jobs]
        report.rows.append(
            (
                f"{row.label}, {row.dtype}",
                *(f"{multiple:.2f}" for multiple in multiples),
                f"{decode / median(times['decode']):.0%}",
                f"{median(times['decode']) * 1e3:.1f}",
                *(f"{1 / median(times[job]):.0f}" for job in jobs[1:]),
                f"{errors[row]:.0e}" if errors[row] else "0",
            )
        )
        report.values["rows"].append(
            {"label": row.label, "dtype": row.dtype, "seconds_per_token": times, "error": errors[row]}
            | {"multiples": dict(zip(jobs, multiples, strict=True)), "best": {"decode": decode, "prefill": prefill}}
        )
    best = best_times(SHAPES[shape], "f32", bound)
    report.notes.append(
        f"At the limits, f32: decode {best[0] * 1e3:.1f} ms a token, prefill {1 / best[1]:.0f} tokens/s."
    )
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_speed", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="169m")
    parser.add_argument("--dtypes", nargs="+", choices=(*DTYPES, *MATRIX_TYPES), default=(*DTYPES, *MATRIX_TYPES))
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoints and the model files")
    parser.add_argument("--peer-python", metavar="PATH", help="a Python that has torch and rwkv")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    shape, folder = arguments.shape, arguments.folder
    checkpoint = cached_checkpoint(shape, "f32", folder)
    rows = [Row("numpy", "plain NumPy", "f32", checkpoint)]
    rows += [Row("rwkv_cy", "rwkv_cy", dtype, cached_model(shape, dtype, folder)) for dtype in arguments.dtypes]
    if arguments.peer_python:
        rows += [Row("rwkv", "rwkv", dtype, checkpoint, arguments.peer_python) for dtype in ("f32", "bf16")]
    program = limits.build(folder)
    for threads in arguments.threads:
        before = limits.measure(program, threads)
        found, errors = measure(rows, threads, arguments.rounds)
        bound = before.better(limits.measure(program, threads))
        report = report_of(shape, threads, arguments.rounds, found, errors, bound)
        if not arguments.peer_python:
            report.notes.append("rwkv: not measured; name a Python that has it with --peer-python.")
        report.print(as_json=arguments.json)
        print(flush=True)


if __name__ == "__main__":
    main()
