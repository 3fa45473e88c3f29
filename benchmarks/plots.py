"""Plots of measurements: decode by precision, threads and size, the cost of a prompt by its length, and batches.

Make the figures first, for each size of model, then draw:

    python -m benchmarks.bench_speed --shape 169m --prompts 1 8 32 128 512 --json > build/bench/speed-169m.json
    python -m benchmarks.bench_batch --shape 169m --json > build/bench/batch-169m.json
    python -m benchmarks.plots
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import FOLDER, name_of

_OURS = "rwkv_cy"


def by_precision(documents: Sequence[dict[str, Any]]) -> dict[str, dict[int, dict[str, float]]]:
    """Return decode tokens per second: by model, number of threads, and contender with its precision."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for document in documents:
        speeds = {
            (row["dtype"] if row["label"] == _OURS else f"{row['label']}, {row['dtype']}"): 1
            / statistics.median(row["seconds"]["decode"])
            for row in document["rows"]
        }
        found.setdefault(document["shape"], {})[document["threads"]] = speeds
    return found


def by_prompt(documents: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[int, float]]]:
    """Return milliseconds per token of a prompt, with the most threads: by model, storage type and length."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for document in sorted(documents, key=lambda one: int(one["threads"])):
        for row in document["rows"]:
            if not row["label"].startswith(_OURS):
                continue
            lengths = {
                int(match[1]): 1e3 * statistics.median(seconds)
                for job, seconds in row["seconds"].items()
                if (match := re.fullmatch(r"prefill (\d+)", job))
            }
            found.setdefault(document["shape"], {})[row["dtype"]] = dict(sorted(lengths.items()))
    return found


def by_size(documents: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return milliseconds per token of decode, with the most threads: by storage type and model, in the given order."""
    found: dict[str, dict[str, float]] = {}
    for document in sorted(documents, key=lambda one: int(one["threads"])):
        for row in document["rows"]:
            if row["label"].startswith(_OURS):
                seconds = statistics.median(row["seconds"]["decode"])
                found.setdefault(row["dtype"], {})[document["shape"]] = 1e3 * seconds
    return found


def by_batch(documents: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[int, float]]]:
    """Return tokens per second of all sequences together: by model, type with its threads, and number of sequences."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for document in documents:
        for row in document["rows"]:
            speeds = {int(size): int(size) / statistics.median(times) for size, times in row["seconds"].items()}
            label = f"{row['dtype']}, {_threads(row['threads'])}"
            found.setdefault(document["shape"], {})[label] = dict(sorted(speeds.items()))
    return found


def draw(speeds: Sequence[dict[str, Any]], batches: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Write the plots as SVG into `folder`, and return their paths; the same figures give the same bytes.

    Parameters
    ----------
    speeds, batches : sequence of dict
        What ``bench_speed`` and ``bench_batch`` printed. A plot without figures is not drawn.
    folder : Path
    """
    try:
        import matplotlib as mpl
    except ImportError:
        sys.exit("benchmarks.plots: expected matplotlib, which draws; pip install 'rwkv-cy[bench]'")
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "rwkv_cy"

    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"": by_size(speeds)} if len({document["shape"] for document in speeds}) > 1 else {}
    plots: list[tuple[str, dict[str, Any], Callable[[Any, str, Any], None]]] = [
        ("decode-by-precision", by_precision(speeds), _draw_precisions),
        ("decode-by-size", sizes, _draw_sizes),
        ("cost-by-prompt", by_prompt(speeds), _draw_prompts),
        ("speed-by-batch", by_batch(batches), _draw_batches),
    ]
    return [_figure(folder / f"{name}.svg", panels, one) for name, panels, one in plots if panels]


def _figure(path: Path, panels: dict[str, Any], draw_panel: Callable[[Any, str, Any], None]) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(6 * len(panels), 4), squeeze=False, layout="constrained")
    for axis, (shape, values) in zip(axes[0], panels.items(), strict=True):
        draw_panel(axis, shape, values)
        axis.legend()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def _draw_precisions(axis: Any, shape: str, threads: dict[int, dict[str, float]]) -> None:
    width = 0.8 / len(threads)
    for place, (count, speeds) in enumerate(sorted(threads.items())):
        at = [number + (place + 0.5) * width - 0.4 for number in range(len(speeds))]
        bars = axis.bar(at, list(speeds.values()), width, label=_threads(count))
        axis.bar_label(bars, fmt="%.0f", fontsize=7)
    names = list(next(iter(threads.values())))
    axis.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)
    axis.set(title=f"{name_of(shape)}: decode", ylabel="tokens a second")


def _draw_sizes(axis: Any, _: str, dtypes: dict[str, dict[str, float]]) -> None:
    for dtype, milliseconds in dtypes.items():
        axis.plot([name_of(shape) for shape in milliseconds], list(milliseconds.values()), marker="o", label=dtype)
    axis.set_yscale("log")
    axis.set(title="Decode by model", ylabel="milliseconds a token")


def _draw_prompts(axis: Any, shape: str, dtypes: dict[str, dict[int, float]]) -> None:
    for dtype, lengths in dtypes.items():
        axis.plot(list(lengths), list(lengths.values()), marker="o", markersize=3, label=dtype)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set(title=f"{name_of(shape)}: a prompt", xlabel="tokens of the prompt", ylabel="milliseconds a token")


def _draw_batches(axis: Any, shape: str, labels: dict[str, dict[int, float]]) -> None:
    for label, speeds in labels.items():
        axis.plot(list(speeds), list(speeds.values()), marker="o", markersize=3, label=label)
    axis.set_xscale("log", base=2)
    axis.set(title=f"{name_of(shape)}: sequences at once", xlabel="sequences", ylabel="tokens a second, all together")


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plots", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "results",
        nargs="*",
        type=Path,
        help="JSON of them (default: build/bench/{speed,batch}-*.json)",
    )
    parser.add_argument("--folder", type=Path, default=Path("docs") / "plots", help="for the SVG files")
    arguments = parser.parse_args()
    results = arguments.results or [*sorted(FOLDER.glob("speed-*.json")), *sorted(FOLDER.glob("batch-*.json"))]
    if not results:
        parser.error(
            f"expected the JSON of bench_speed or bench_batch, got none in {FOLDER}; --help says how to make it"
        )
    found = [json.loads(path.read_text()) for path in results]
    speeds = [document for one in found if isinstance(one, list) for document in one]  # one for each number of threads
    batches = [one for one in found if not isinstance(one, list)]
    for path in draw(speeds, batches, arguments.folder):
        print(path)


if __name__ == "__main__":
    main()
