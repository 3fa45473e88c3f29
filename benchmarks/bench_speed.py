"""Decode and prefill compared with plain NumPy, other installed programs, and the machine's limits, in one run."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import limits
from benchmarks.checkpoints import DTYPES, FOLDER, SHAPES, cached_model, name_of
from benchmarks.peers import Row, peer_arguments, peer_notes, peer_rows
from benchmarks.report import Report, median, ratio
from benchmarks.worker import Worker
from rwkv_cy import Config
from rwkv_cy.architectures import architecture_of
from rwkv_cy.checkpoint.checkpoint import open_source
from rwkv_cy.dtypes import GROUP_ROWS, MATRIX_TYPES, PACKED, QUANTIZED_TYPES, storage_type
from rwkv_cy.kernels.stream import Stream
from rwkv_cy.model.language_model import load
from rwkv_cy.tensors.arena import Arena
from rwkv_cy.toolkit.bench import Measurement

_DECODED = 16
#: Time for which threads of OpenBLAS and OpenMP spin after their work, which would slow the next contender.
_SETTLE_SECONDS = 0.5
_LONGEST_PROMPT = 1 << 16
#: All contenders get the same tokens; the speed does not depend on their values.
_TOKENS = [int(token) for token in np.random.default_rng(0).integers(0, 50277, _LONGEST_PROMPT)]
#: Types of matrices; a plus stands for activations rounded to the same type.
_ALL = (*DTYPES, "bf16+", *MATRIX_TYPES)
#: The package's contender for each location of the weights.
_OURS = {True: "rwkv_cy", False: "rwkv_cy, resident"}


@dataclass
class Found:
    """Measurements of one row, one value per round.

    Attributes
    ----------
    seconds : dict of str to list of float
        Of a token, for each job.
    read : list of float
        Seconds that reading as many bytes of weights took, in turns with the tokens of decode.
    share : list of float
        Of reading in the time of a token: the median over pairs of neighbours.
    arithmetic : dict of str to list of float
        For each prompt, the part of its time that the multiplications take at the most that the machine gave in
        float32 just before it.
    error : float
        How far the logits are from those of the first row.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    read: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    arithmetic: dict[str, list[float]] = field(default_factory=dict)
    error: float = 0.0


def measure(
    rows: Sequence[Row], shape: str, prompts: Sequence[int], threads: int, rounds: int, flops: Callable[[], float]
) -> tuple[dict[Row, Found], list[float]]:
    """Measure all rows, the first of which the others are compared with, and what `flops` gave before each prompt.

    All contenders are up at the same time and take turns within a round; those that wait do nothing.
    """
    found = {row: Found() for row in rows}
    limits_met: list[float] = []
    with ExitStack() as stack:
        workers = {
            row: stack.enter_context(Worker(row.contender, row.path, row.dtype, threads, row.python, row.library))
            for row in rows
        }
        streams = _streams(rows, shape)
        logits = {row: np.asarray(worker.logits(_TOKENS[:8])) for row, worker in workers.items()}
        for _ in range(rounds):
            for row, worker in workers.items():
                pairs = _pairs(row, worker, streams[row], threads)
                one = found[row]
                one.seconds.setdefault("decode", []).append(median([taken for _, taken in pairs]))
                one.read.append(median([read for read, _ in pairs]))
                one.share.append(median([read / taken for read, taken in pairs]))
                _settle(row)
            for count in prompts:
                job = f"prefill {count}"
                for row, worker in workers.items():
                    limits_met.append(flops())
                    seconds = worker.seconds(_TOKENS[:count], keep_state=False) / count
                    least = best_prefill(SHAPES[shape], limits_met[-1])
                    found[row].seconds.setdefault(job, []).append(seconds)
                    found[row].arithmetic.setdefault(job, []).append(least / seconds)
                    _settle(row)
    exact = logits[rows[0]]
    scale = float(np.sqrt(np.mean(exact**2)))
    for row, own in logits.items():
        found[row].error = float(np.sqrt(np.mean((own - exact) ** 2))) / scale
    return found, limits_met


def _streams(rows: Sequence[Row], shape: str) -> dict[Row, Stream]:
    """Return the bytes that decode reads: the package's own matrices, or an equal size of large pages for others."""
    sizes = {row: _matrix_bytes(row, SHAPES[shape]) for row in rows if row.contender not in _OURS.values()}
    streams = {}
    if sizes:
        # One array serves all of them: it is larger than the caches.
        largest = max(sizes.values())
        array = Arena(largest).take((largest,), np.dtype(np.uint8))
        array[...] = 1
        streams = {row: Stream([array[:nbytes]]) for row, nbytes in sizes.items()}
    for row in rows:
        if row.contender in _OURS.values():
            mapped = row.contender == _OURS[True]
            streams[row] = Measurement(load(row.path, mmap=mapped), 1, 1).stream
    return streams


def _matrix_bytes(row: Row, config: Config) -> int:
    sizes = weights(config)
    if row.contender in ("rwkv.cpp", "llama.cpp"):
        # Their quantized files have matrices of several types.
        with open_source(row.path) as source:
            return sum(source.info(name).source_nbytes for name in sizes)
    return int(sum(sizes.values()) * bytes_per_weight(row.dtype))


def _pairs(row: Row, worker: Worker, stream: Stream, threads: int) -> list[tuple[float, float]]:
    """Return the seconds of plain reads and of a token; alternating if the contender's threads sleep between calls."""
    worker.seconds(_TOKENS[:1], keep_state=False)
    if row.contender in _OURS.values():
        return [(_reading(stream, threads), worker.seconds([token], keep_state=True)) for token in _TOKENS[:_DECODED]]
    time.sleep(_SETTLE_SECONDS)
    read = median([_reading(stream, threads) for _ in range(5)])
    return [(read, worker.seconds([token], keep_state=True)) for token in _TOKENS[:_DECODED]]


def _settle(row: Row) -> None:
    """Wait until the threads of a contender sleep, so that they do not slow the next one."""
    if row.contender not in _OURS.values():
        time.sleep(_SETTLE_SECONDS)


def _reading(stream: Stream, threads: int) -> float:
    start = time.perf_counter()
    stream.read(threads)
    return time.perf_counter() - start


def stored(dtype: str) -> str:
    """Return the type of the matrices."""
    return dtype.removesuffix("+")


def bytes_per_weight(dtype: str) -> float:
    """Return the bytes per weight, including the scales of its block."""
    if dtype in QUANTIZED_TYPES:
        quantized = QUANTIZED_TYPES[dtype]
        return quantized.block_bytes / (quantized.columns * GROUP_ROWS)
    return 1.5 if dtype == PACKED else storage_type(stored(dtype)).itemsize


def weights(config: Config) -> dict[str, float]:
    """Return the weights of each matrix that a token reads; of the embedding it reads only a row."""
    specs = architecture_of(config).parameters(config)
    # Tokens have no use for optional parameters.
    read = [spec for spec in specs if not spec.optional and (spec.quantizable or spec.kind == "low_rank")]
    return {spec.name: float(np.prod(spec.shape)) for spec in read}


def best_prefill(config: Config, flops: float) -> float:
    """Return the least seconds per token of a prompt that fp32 arithmetic allows."""
    # A prompt needs the logits of its last token only, so that the head is excluded.
    sizes = weights(config)
    return 2 * (sum(sizes.values()) - sizes["head.weight"]) / flops


def report_of(shape: str, threads: int, rounds: int, found: dict[Row, Found], flops: Sequence[float]) -> Report:
    """Return the table for one number of threads."""
    first = next(iter(found))
    jobs = tuple(found[first].seconds)
    report = Report(
        f"{name_of(shape)}, {threads} thread{'s' if threads > 1 else ''}: speed beside {first.label} in {first.dtype}",
        (
            "",
            *(f"{job}, times {first.label}" for job in jobs),
            "decode, % of bandwidth",
            "decode, ms a token",
            *(f"{job}, % of peak" for job in jobs[1:]),
            *(f"{job}, tokens/s" for job in jobs[1:]),
            "error of the logits",
        ),
        notes=[
            f"Medians of {rounds} rounds, alternating; ratios within a round. Decode: the median of {_DECODED} tokens.",
            f"The limit of arithmetic, float32: {min(flops) / 1e9:.0f} to {max(flops) / 1e9:.0f} GFLOP/s in this run.",
            "Of the arithmetic: the time that multiplying takes at the limit measured just before, over the time.",
            "bf16+: matrices in bf16, and activations rounded to bf16 before they meet them.",
            "Of the bandwidth: what reading as many bytes alone takes, in turns with the tokens, over a token's time.",
            f"Error: relative rms of the logits after 8 tokens, beside {first.label} in {first.dtype}.",
        ],
        values={"shape": shape, "threads": threads, "flops": max(flops), "rows": []},
    )
    baseline = found[first].seconds
    for row, one in found.items():
        times = one.seconds
        multiples = [ratio(baseline[job], times[job]) for job in jobs]
        report.rows.append(
            (
                f"{row.label}, {row.dtype}",
                *(f"{multiple:.2f}" for multiple in multiples),
                f"{median(one.share):.0%}",
                f"{median(times['decode']) * 1e3:.1f}",
                *(f"{median(one.arithmetic[job]):.0%}" for job in jobs[1:]),
                *(f"{1 / median(times[job]):.0f}" for job in jobs[1:]),
                f"{one.error:.0e}" if one.error else "0",
            )
        )
        report.values["rows"].append(
            {"label": row.label, "dtype": row.dtype, **asdict(one)}
            | {"multiples": dict(zip(jobs, multiples, strict=True))}
        )
    return report


def nominal_bits(dtype: str) -> int:
    """Return the number of bits by which a type is compared: that of its name, rounded up to 8, 16 or 32, or 4.

    Five bits stand with four, six with eight, and twelve with the sixteen that they hold.
    """
    digits = re.search(r"\d+", dtype)
    bits = int(digits[0]) if digits else 32
    return 4 if bits <= 5 else next(size for size in (8, 16, 32, 64) if bits <= size)


def comparison_of(shape: str, threads: int, found: dict[Row, Found]) -> Report:
    """Return the table that compares each storage type with the fastest other program at as many bits."""
    jobs = tuple(next(iter(found.values())).seconds)
    report = Report(
        f"{name_of(shape)}, {threads} thread{'s' if threads > 1 else ''}: speed beside others in as many bits",
        ("", "beside", *(f"{job}, times as fast (beside)" for job in jobs)),
        notes=[
            "Each job beside that type of theirs, in brackets, which is the fastest in it; ratios within a round.",
            "5 bits stand with 4, 6 with 8, and 12 with 16.",
        ],
        values={"shape": shape, "threads": threads, "rows": []},
    )
    others = list(dict.fromkeys(row.label for row in found if row.contender not in _OURS.values()))
    for row, one in found.items():
        if row.contender not in _OURS.values():
            continue
        for label in others:
            peers = [
                peer for peer in found if peer.label == label and nominal_bits(peer.dtype) == nominal_bits(row.dtype)
            ]
            if not peers:
                continue
            cells, multiples = [], {}
            for job in jobs:
                best = min(peers, key=lambda peer, job=job: median(found[peer].seconds[job]))  # type: ignore[misc]
                multiples[job] = ratio(found[best].seconds[job], one.seconds[job])
                cells.append(f"{multiples[job]:.2f} ({best.dtype})")
            report.rows.append((f"{row.label}, {row.dtype}", label, *cells))
            report.values["rows"].append(
                {"label": row.label, "dtype": row.dtype, "beside": label, "multiples": multiples}
            )
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_speed", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="169m")
    parser.add_argument("--dtypes", nargs="+", choices=_ALL, default=_ALL)
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--prompts", nargs="+", type=int, default=(128, 512), help="lengths of prompts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoints and the model files")
    parser.add_argument("--no-mmap", dest="mmap", action="store_false", help="read our weights into memory")
    peer_arguments(parser)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not all(1 <= count <= _LONGEST_PROMPT for count in arguments.prompts):
        parser.error(f"--prompts: expected lengths from 1 to {_LONGEST_PROMPT}")
    shape, folder = arguments.shape, arguments.folder
    ours = _OURS[arguments.mmap]
    own = [Row(ours, ours, dtype, cached_model(shape, stored(dtype), folder)) for dtype in arguments.dtypes]
    others = peer_rows(shape, folder, arguments)
    # What the others are compared with: the first of the other programs, which is in float32.
    rows = [*others[:1], *own, *others[1:]]
    program, prompts = limits.build(folder), arguments.prompts
    notes = peer_notes(shape, arguments)
    documents: list[dict[str, Any]] = []
    for threads in arguments.threads:
        found, flops = measure(rows, shape, prompts, threads, arguments.rounds, partial(limits.flops, program, threads))
        report = report_of(shape, threads, arguments.rounds, found, flops)
        report.notes += notes
        comparison = comparison_of(shape, threads, found)
        if arguments.json:
            documents.append(report.document() | {"comparison": comparison.values["rows"]})
        else:
            report.print(as_json=False)
            print()
            comparison.print(as_json=False)
            print(flush=True)
    if arguments.json:
        print(json.dumps(documents, indent=2))


if __name__ == "__main__":
    main()
