"""Plots of bench_speed's results: tokens per second by precision and threads, and the cost of a prompt by its length.

Make the figures first, for each size of model, then draw:

    python -m benchmarks.bench_speed --shape 169m --prompts 1 8 32 128 512 --json > build/bench/speed-169m.json
    python -m benchmarks.plots
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import FOLDER

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


def draw(documents: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Write both plots as SVG into `folder`, and return their paths; the same figures give the same bytes."""
    try:
        import matplotlib as mpl
    except ImportError:
        sys.exit("benchmarks.plots: expected matplotlib, which draws; pip install 'rwkv-cy[bench]'")
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "rwkv_cy"
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    decode, prompts = by_precision(documents), by_prompt(documents)
    paths = [folder / "decode-by-precision.svg", folder / "cost-by-prompt.svg"]

    figure, axes = pyplot.subplots(1, len(decode), figsize=(6 * len(decode), 4), squeeze=False, layout="constrained")
    for axis, (shape, threads) in zip(axes[0], decode.items(), strict=True):
        width = 0.8 / len(threads)
        for place, (count, speeds) in enumerate(sorted(threads.items())):
            at = [number + (place + 0.5) * width - 0.4 for number in range(len(speeds))]
            bars = axis.bar(at, list(speeds.values()), width, label=f"{count} thread{'s' if count > 1 else ''}")
            axis.bar_label(bars, fmt="%.0f", fontsize=7)
        names = list(next(iter(threads.values())))
        axis.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)
        axis.set(title=f"RWKV-4 {shape}: decode", ylabel="tokens a second")
        axis.legend()
    figure.savefig(paths[0], metadata={"Date": None})
    pyplot.close(figure)

    figure, axes = pyplot.subplots(1, len(prompts), figsize=(6 * len(prompts), 4), squeeze=False, layout="constrained")
    for axis, (shape, dtypes) in zip(axes[0], prompts.items(), strict=True):
        for dtype, lengths in dtypes.items():
            axis.plot(list(lengths), list(lengths.values()), marker="o", markersize=3, label=dtype)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set(title=f"RWKV-4 {shape}: a prompt", xlabel="tokens of the prompt", ylabel="milliseconds a token")
        axis.legend()
    figure.savefig(paths[1], metadata={"Date": None})
    pyplot.close(figure)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plots", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="*", type=Path, help="JSON of bench_speed (default: build/bench/speed-*.json)")
    parser.add_argument("--folder", type=Path, default=Path("docs") / "plots", help="for the SVG files")
    arguments = parser.parse_args()
    results = arguments.results or sorted(FOLDER.glob("speed-*.json"))
    if not results:
        parser.error(f"expected the JSON of bench_speed, got none in {FOLDER}; --help has the command that makes it")
    documents = [document for path in results for document in json.loads(path.read_text())]
    for path in draw(documents, arguments.folder):
        print(path)


if __name__ == "__main__":
    main()
