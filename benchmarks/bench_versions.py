"""Decode and prefill of every version at one shape, beside those of version 7."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import limits
from benchmarks.bench_speed import best_prefill
from benchmarks.checkpoints import DTYPES, FOLDER, VERSION_SHAPES, cached_model
from benchmarks.report import Report, median, ratio
from rwkv_cy import load
from rwkv_cy.architectures import architecture_of
from rwkv_cy.dtypes import MATRIX_TYPES
from rwkv_cy.toolkit.bench import Measurement, Round

_DECODED = 16
_REFERENCE = "7-0.1b"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_versions", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=VERSION_SHAPES, default=VERSION_SHAPES)
    parser.add_argument("--dtypes", nargs="+", choices=(*DTYPES, *MATRIX_TYPES), default=("bf16", "q4"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoints and the model files")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    program = limits.build(options.folder)
    report = Report(
        "Versions at the shape of 0.1B beside version 7",
        (
            "",
            "decode, times version 7",
            f"prompt of {options.prompt}, times version 7",
            "bytes of a token, times version 7",
            "decode, % of bandwidth",
            "prompt, % of f32 peak",
            "decode, tokens/s",
            "prompt, tokens/s",
        ),
        notes=[
            f"Medians of {options.rounds} rounds with {options.threads} threads; the versions take turns in a round.",
            f"Speeds beside version 7 in the same type and round. Decode: the median of {_DECODED} tokens.",
            "Bytes of a token: matrices and low-rank factors once, the state twice.",
        ],
        values={"rows": []},
    )
    shapes = (_REFERENCE, *(shape for shape in options.shapes if shape != _REFERENCE))
    for dtype in options.dtypes:
        models = {shape: load(cached_model(shape, dtype, options.folder), mmap=False) for shape in shapes}
        runs = {shape: Measurement(model, options.prompt, _DECODED) for shape, model in models.items()}
        rounds: dict[str, list[Round]] = {shape: [] for shape in shapes}
        peaks: dict[str, list[float]] = {shape: [] for shape in shapes}
        for run in runs.values():
            run.warm_up(options.threads)
        for _ in range(options.rounds):
            for shape, run in runs.items():
                peaks[shape].append(limits.flops(program, options.threads))
                rounds[shape].append(run.round(options.threads))
        reference = rounds[_REFERENCE]
        for shape, run in runs.items():
            own = rounds[shape]
            decode = ratio([one.decode for one in reference], [one.decode for one in own])
            prefill = ratio([one.prefill for one in reference], [one.prefill for one in own])
            share = median([one.share for one in own])
            best = best_prefill(models[shape].config, 1.0)
            peak = median([best / flops / one.prefill for flops, one in zip(peaks[shape], own, strict=True)])
            size = run.token_bytes / runs[_REFERENCE].token_bytes
            report.rows.append(
                (
                    f"{architecture_of(models[shape].config).label}, {dtype}",
                    f"{decode:.2f}",
                    f"{prefill:.2f}",
                    f"{size:.2f}",
                    f"{share:.0%}",
                    f"{peak:.0%}",
                    f"{1 / median([one.decode for one in own]):.0f}",
                    f"{1 / median([one.prefill for one in own]):.0f}",
                )
            )
            report.values["rows"].append(
                {"shape": shape, "dtype": dtype, "decode": decode, "prefill": prefill}
                | {"bytes": size, "share": share, "peak": peak}
            )
    report.print(as_json=options.json)


if __name__ == "__main__":
    main()
