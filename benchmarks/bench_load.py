"""Loading of a large model: time and anonymous memory before the first token, beside plain NumPy and ``rwkv``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checkpoints import DTYPES, FOLDER, SHAPES, cached_checkpoint, cached_model, name_of
from benchmarks.report import Report, median, ratio
from benchmarks.worker import Worker

#: Limits of loading a model file.
_MAX_SECONDS, _MAX_BYTES = 0.050, 60e6
_THREADS = 2


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    label: str
    contender: str
    path: Path
    python: str | None = None


def measure(rows: list[Row], dtype: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Open the model with each contender in each round, alternating, and run one token."""
    found: dict[str, dict[str, list[float]]] = {row.label: {} for row in rows}
    for _ in range(rounds):
        for row in rows:
            with Worker(row.contender, row.path, dtype, _THREADS, row.python) as worker:
                values = {**worker.opening, "first_token_seconds": worker.seconds([0], keep_state=False)}
            for name, value in values.items():
                found[row.label].setdefault(name, []).append(value)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_load", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="430m")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoint and the model file")
    parser.add_argument("--peer-python", metavar="PATH", help="a Python that has torch and rwkv")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    checkpoint = cached_checkpoint(arguments.shape, arguments.dtype, arguments.folder)
    model = cached_model(arguments.shape, arguments.dtype, arguments.folder)
    ours = "rwkv_cy, model file"
    rows = [
        Row(ours, "rwkv_cy", model),
        Row("rwkv_cy, .pth", "rwkv_cy", checkpoint),
        Row("plain NumPy, .pth", "numpy", checkpoint),
    ]
    if arguments.peer_python:
        rows.append(Row("rwkv, .pth", "rwkv", checkpoint, arguments.peer_python))
    found = measure(rows, arguments.dtype, arguments.rounds)
    report = Report(
        f"Loading {name_of(arguments.shape)} {arguments.dtype}, page cache warm",
        (
            "",
            "load, ratio to ours",
            "load, ms",
            "first token after it, ms",
            "loading adds, MB",
            "anonymous before the first token, MB",
            "import, s",
        ),
        values={"found": found, "limits": {"load_seconds": _MAX_SECONDS, "loaded_bytes": _MAX_BYTES}},
        notes=[
            f"Medians of {arguments.rounds} rounds, alternating; a process each; ratios within a round.",
            f"Limits for rwkv_cy: below {_MAX_SECONDS * 1e3:.0f} ms and {_MAX_BYTES / 1e6:.0f} MB.",
        ],
    )
    if not arguments.peer_python:
        report.notes.append("rwkv: not measured; name a Python that has it with --peer-python.")
    for label, values in found.items():
        added = [after - before for after, before in zip(values["loaded_bytes"], values["imported_bytes"], strict=True)]
        report.rows.append(
            (
                label,
                f"{ratio(values['load_seconds'], found[ours]['load_seconds']):.1f}",
                f"{median(values['load_seconds']) * 1e3:.1f}",
                f"{median(values['first_token_seconds']) * 1e3:.0f}",
                f"{median(added) / 1e6:.1f}",
                f"{median(values['loaded_bytes']) / 1e6:.1f}",
                f"{median(values['import_seconds']):.2f}",
            )
        )
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
