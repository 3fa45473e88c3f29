"""Decode and prefill with each instruction set that this CPU runs, beside the newest, in turns."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.checkpoints import DTYPES, FOLDER, SHAPES, cached_model, name_of
from benchmarks.report import Report, median, ratio
from rwkv_cy import load
from rwkv_cy.dtypes import MATRIX_TYPES
from rwkv_cy.kernels.dispatch import available_instruction_sets, select_instruction_set
from rwkv_cy.toolkit.bench import Measurement, Round

_DECODED = 16


def measure(
    path: Path, sets: Sequence[str], threads: int, prompt: int, rounds: int, mmap: bool
) -> tuple[dict[str, list[Round]], int]:
    """Return the rounds of each instruction set, and the bytes of a token.

    Measures a model with each instruction set in each round; a model is loaded by the kernels that run it.
    """
    runs = {}
    for name in sets:
        select_instruction_set(name)
        runs[name] = Measurement(load(path, mmap=mmap), prompt, _DECODED)
        runs[name].warm_up(threads)
    found: dict[str, list[Round]] = {name: [] for name in sets}
    for _ in range(rounds):
        for name, run in runs.items():
            select_instruction_set(name)
            found[name].append(run.round(threads))
    select_instruction_set()
    return found, runs[sets[0]].token_bytes


def main(arguments: Sequence[str] | None = None) -> None:
    sets = available_instruction_sets()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_isa", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=("169m", "7-0.1b", "7-0.4b"))
    parser.add_argument("--dtypes", nargs="+", choices=(*DTYPES, *MATRIX_TYPES), default=("f32", "bf16", "q8", "q4"))
    parser.add_argument("--sets", nargs="+", choices=sets, default=[name for name in sets if name == "avx2"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoints and the model files")
    parser.add_argument("--no-mmap", dest="mmap", action="store_false", help="read the weights into memory")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    newest = select_instruction_set()
    compared = [newest, *(name for name in options.sets if name != newest)]
    report = Report(
        f"Instruction sets beside {newest}",
        (
            "",
            "instruction set",
            f"decode, times {newest}",
            f"prompt of {options.prompt}, times {newest}",
            "decode, % of bandwidth",
            "decode, tokens/s",
            "bandwidth, GB/s",
        ),
        notes=[
            f"Medians of {options.rounds} rounds with {options.threads} threads; sets take turns in a round.",
            f"Ratios within a round; {_DECODED} tokens each, in turns with reads of as many bytes.",
        ],
        values={"rows": []},
    )
    for shape in options.shapes:
        for dtype in options.dtypes:
            path = cached_model(shape, dtype, options.folder)
            found, token_bytes = measure(path, compared, options.threads, options.prompt, options.rounds, options.mmap)
            best = found[newest]
            for name, own in found.items():
                decode = ratio([one.decode for one in best], [one.decode for one in own])
                prefill = ratio([one.prefill for one in best], [one.prefill for one in own])
                share = median([one.share for one in own])
                report.rows.append(
                    (
                        f"{name_of(shape)}, {dtype}",
                        name,
                        f"{decode:.2f}",
                        f"{prefill:.2f}",
                        f"{share:.0%}",
                        f"{1 / median([one.decode for one in own]):.0f}",
                        f"{median([token_bytes / one.read for one in own]) / 1e9:.0f}",
                    )
                )
                report.values["rows"].append(
                    {"shape": shape, "dtype": dtype, "set": name, "decode": decode, "prefill": prefill, "share": share}
                )
    report.print(as_json=options.json)


if __name__ == "__main__":
    main()
