"""How close a model comes to what the hardware allows: decode, prompts and batches, for any shape and storage type."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import limits
from benchmarks.bench_speed import best_prefill
from benchmarks.checkpoints import DTYPES, FOLDER, SHAPES, cached_model, name_of
from benchmarks.energy import Counters, joules_of
from benchmarks.report import Report, median
from rwkv_cy import LanguageModel, load
from rwkv_cy.architectures import architecture_of
from rwkv_cy.dtypes import MATRIX_TYPES
from rwkv_cy.kernels.matrix import Workspace, make_low_rank, make_matrix
from rwkv_cy.toolkit.bench import Measurement

_DTYPES = ("f32", "bf16", "q8", "q4")
_DECODED = 16
_BATCH = 16


def products_of(model: LanguageModel, sequences: int, threads: int) -> Callable[[], None]:
    """Return a function that multiplies this number of tokens by every matrix of the model, and nothing else."""
    rng = np.random.default_rng(0)
    makers = {"matrix": make_matrix, "head": make_matrix, "low_rank": make_low_rank}
    matrices = [
        makers[spec.kind](model.parameters[spec.name], "f32")
        for spec in architecture_of(model.config).parameters(model.config)
        if spec.kind in makers and spec.name in model.parameters
    ]
    tokens = {
        cols: rng.standard_normal((sequences, cols), dtype=np.float32)
        for cols in {matrix.shape[1] for matrix in matrices}
    }
    workspace = Workspace()

    def run() -> None:
        for matrix in matrices:
            matrix.matmul(tokens[matrix.shape[1]], threads, workspace)

    return run


def batch_over_products(model: LanguageModel, sequences: int, threads: int, rounds: int) -> float:
    """Return the time of a step of this many sequences as a multiple of its products alone: the median of pairs."""
    run = products_of(model, sequences, threads)
    rng = np.random.default_rng(0)
    _, states = model.forward_batch(rng.integers(0, model.vocab_size, sequences).tolist(), num_threads=threads)
    ratios = []
    for _ in range(8 * rounds):
        step = rng.integers(0, model.vocab_size, sequences).tolist()
        start = time.perf_counter()
        run()
        middle = time.perf_counter()
        model.forward_batch(step, states, in_place=True, num_threads=threads)
        ratios.append((time.perf_counter() - middle) / (middle - start))
    return median(ratios)


def _decoder(model: LanguageModel, threads: int) -> Callable[[], None]:
    """Return a function that decodes one token after another."""
    _, state = model.forward(1, num_threads=threads)

    def step() -> None:
        model.forward(1, state, in_place=True, num_threads=threads)

    return step


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_model", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=("7-0.1b", "7-0.4b"))
    parser.add_argument("--dtypes", nargs="+", choices=(*DTYPES, *MATRIX_TYPES), default=_DTYPES)
    parser.add_argument("--threads", nargs="+", type=int, default=(2,))
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoints and the model files")
    parser.add_argument("--no-mmap", dest="mmap", action="store_false", help="read the weights into memory")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    program, counters = limits.build(options.folder), Counters()
    report = Report(
        "Decode, prompts and batches relative to the hardware",
        (
            "",
            "threads",
            "decode, % of bandwidth",
            f"prompt of {options.prompt}, % of f32 peak",
            f"batch of {_BATCH}, times its products",
            "decode, tokens/s",
            "prompt, tokens/s",
            "bandwidth, GB/s",
            "core to core, ns",
            *(("decode, J/token",) if counters.readable else ()),
        ),
        notes=[
            f"Medians of {options.rounds} rounds; {_DECODED} tokens each, alternating with reads of as many bytes.",
            "Bytes of a token: matrices and low-rank factors once, the state twice.",
            "Peak: fused multiply-adds in float32, measured before each prompt; all multiplications count.",
            f"Batch: a step of {_BATCH} sequences over the same products without anything between them, in pairs.",
            "Core to core: the way of a cache line, measured before and after the batch; the mean.",
            *(() if counters.readable else ("Energy: not measured; this system lets no counters be read.",)),
        ],
        values={"rows": []},
    )
    for shape in options.shapes:
        for dtype in options.dtypes:
            model = load(cached_model(shape, dtype, options.folder), mmap=options.mmap)
            run = Measurement(model, options.prompt, _DECODED)
            for threads in options.threads:
                run.warm_up(threads)
                peaks, rounds = [], []
                for _ in range(options.rounds):
                    peaks.append(limits.flops(program, threads))
                    rounds.append(run.round(threads))
                share = median([one.share for one in rounds])
                best = [
                    best_prefill(model.config, flops) / one.prefill for flops, one in zip(peaks, rounds, strict=True)
                ]
                before = limits.exchange(program)
                batch = batch_over_products(model, _BATCH, threads, options.rounds)
                exchange = (before + limits.exchange(program)) / 2
                joules = joules_of(_decoder(model, threads), counters) if counters.readable else None
                bandwidth = median([run.token_bytes / one.read for one in rounds])
                report.rows.append(
                    (
                        f"{name_of(shape)}, {dtype}",
                        str(threads),
                        f"{share:.0%}",
                        f"{median(best):.0%}",
                        f"{batch:.2f}",
                        f"{1 / median([one.decode for one in rounds]):.0f}",
                        f"{1 / median([one.prefill for one in rounds]):.0f}",
                        f"{bandwidth / 1e9:.0f}",
                        f"{exchange * 1e9:.0f}",
                        *(() if joules is None else (f"{joules:.2g}",)),
                    )
                )
                report.values["rows"].append(
                    {"shape": shape, "dtype": dtype, "threads": threads, "share": share, "prefill": median(best)}
                    | {"batch": batch, "bandwidth": bandwidth, "exchange": exchange, "joules": joules}
                    | {"decode_seconds": median([one.decode for one in rounds]), "token_bytes": run.token_bytes}
                )
    report.print(as_json=options.json)


if __name__ == "__main__":
    main()
