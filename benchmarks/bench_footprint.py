"""Loading of large models: time, and memory beside what ``inspect`` promises."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.checkpoints import DTYPES, FOLDER, SHAPES, cached_model, name_of
from benchmarks.report import Report, median
from benchmarks.worker import Worker
from rwkv_cy.dtypes import MATRIX_TYPES
from rwkv_cy.toolkit.inspect import inspect

#: What runs after loading, so that every weight but those of other tokens' embeddings is read.
_PROMPT, _TOKENS = 128, 8
_THREADS = 2
_KINDS = {"mapped": "rwkv_cy", "resident": "rwkv_cy, resident"}


def promised_bytes(path: Path) -> int:
    """Return the memory that ``inspect`` tells for the file, loaded as it is."""
    return next(one.memory_bytes for one in inspect(path).expected if one.dtype is None)


def measure(path: Path, kind: str) -> dict[str, float]:
    """Load in a process of its own, run a prompt and tokens, and return seconds and the memory that this added."""
    with Worker(_KINDS[kind], path, "", _THREADS) as worker:
        worker.seconds(range(_PROMPT), keep_state=False)
        tokens = [worker.seconds([token], keep_state=True) for token in range(_TOKENS)]
        return {
            "load_seconds": worker.opening["load_seconds"],
            "token_seconds": median(tokens),
            "added_bytes": worker.peak_bytes() - worker.opening["imported_resident_bytes"],
        }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_footprint", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=("7-1.5b", "7-2.9b"))
    parser.add_argument("--dtypes", nargs="+", choices=(*DTYPES, *MATRIX_TYPES), default=("q8", "q4"))
    parser.add_argument("--kinds", nargs="+", choices=_KINDS, default=tuple(_KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoints and the model files")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    report = Report(
        "Loading: time and memory",
        ("", "load, ms", "promised, MB", "measured, MB", "measured / promised", "decode, ms a token"),
        notes=[
            f"Medians of {options.rounds} rounds, a process each, {_THREADS} threads; the file in the page cache.",
            "Promised: by inspect, for the file loaded as it is.",
            f"Measured: the most memory that loading, a prompt of {_PROMPT} and {_TOKENS} tokens add to a process that",
            "has imported the package, with the pages of the mapped file.",
        ],
        values={"rows": []},
    )
    for shape in options.shapes:
        for dtype in options.dtypes:
            path = cached_model(shape, dtype, options.folder)
            promised = promised_bytes(path)
            for kind in options.kinds:
                rounds = [measure(path, kind) for _ in range(options.rounds)]
                found = {name: median([one[name] for one in rounds]) for name in rounds[0]}
                report.rows.append(
                    (
                        f"{name_of(shape)}, {dtype}, {kind}",
                        f"{found['load_seconds'] * 1e3:.1f}",
                        f"{promised / 1e6:.0f}",
                        f"{found['added_bytes'] / 1e6:.0f}",
                        f"{found['added_bytes'] / promised:.3f}",
                        f"{found['token_seconds'] * 1e3:.1f}",
                    )
                )
                report.values["rows"].append(
                    {"shape": shape, "dtype": dtype, "kind": kind, "promised_bytes": promised, **found}
                )
    report.print(as_json=options.json)


if __name__ == "__main__":
    main()
