"""Scores a text in the manner of WikiText by batches, and compares with ``rwkv-cy perplexity``. ``make test-corpus``.

python -m batch.wikitext [--bytes N] [--window N] [--model FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from batch.helpers import write_jsonl
from rwkv_cy.cli.main import main as rwkv_cy

__all__ = ["LIMIT", "compare", "wikitext"]

ROOT = Path(__file__).resolve().parent.parent.parent
WORDS = ROOT / "data" / "kjv-heldout.txt"
#: The most that perplexities may differ.
LIMIT = 1e-6
_HEADINGS = ("= {} =", "= = {} = =", "= = = {} = = =")


def wikitext(size: int, seed: int = 0) -> str:
    """Return a text of so many bytes, of ASCII: headings, paragraphs on a line each, ``<unk>`` and `` @-@ ``.

    Each word follows the one before it as it does in a text of the demo data.
    """
    words = WORDS.read_text("ascii").split()
    following: dict[str, list[str]] = defaultdict(list)
    for word, successor in zip(words, [*words[1:], words[0]], strict=True):
        following[word].append(successor)
    rng = random.Random(seed)
    word, parts, length = words[0], [], 0
    while length < size:
        heading = rng.random() < 0.2
        chosen = []
        for _ in range(rng.randint(1, 4) if heading else rng.randint(20, 200)):
            word = rng.choice(following[word])
            chosen.append("<unk>" if rng.random() < 0.02 else word.replace("-", " @-@ "))
        line = rng.choice(_HEADINGS).format(" ".join(chosen)) if heading else " ".join(chosen)
        parts.append(f" {line} \n")
        length += len(parts[-1])
    return "".join(parts)[:size]


def compare(model: Path, folder: Path, size: int, window: int) -> dict[str, float]:
    """Return the perplexity of a text by the command of that name, and by batches of it.

    Parameters
    ----------
    model : Path
        With a token for each byte, so that a record of `window` characters is a window.
    folder : Path
        For the files.
    size : int
        Bytes of the text.
    window : int
    """
    text = wikitext(size)
    (folder / "wiki.txt").write_text(text)
    write_jsonl(folder / "whole.jsonl", [{"id": 0, "text": text}])
    pieces = [text[start : start + window] for start in range(0, size, window)]
    write_jsonl(folder / "windows.jsonl", [{"id": place, "text": piece} for place, piece in enumerate(pieces)])
    batch = ("batch", "score", model)
    return {
        "rwkv-cy perplexity": _run("perplexity", model, folder / "wiki.txt", "--window", window),
        "batch, one record": _run(*batch, folder / "whole.jsonl", "--window", window, "--out", folder / "whole"),
        "batch, a record a window, two processes": _run(
            *batch, folder / "windows.jsonl", "--processes", 2, "--no-tokens", "--out", folder / "windows"
        ),
    }


def _run(*words: object) -> float:
    """Return the perplexity that a command prints."""
    with redirect_stdout(StringIO()) as printed:
        code = rwkv_cy([*map(str, words), "--json"])
    if code != 0:
        raise RuntimeError(f"{words[0]}: expected exit code 0, got {code}")
    report: dict[str, Any] = json.loads(printed.getvalue())
    return float(report["perplexity"])


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="batch.wikitext", description=__doc__)
    parser.add_argument("--bytes", type=int, default=2_000_000, help="of the text (default: 2,000,000)")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--model", type=Path, default=ROOT / "data" / "kjv.pth", help="with a token for each byte")
    arguments = parser.parse_args(words)
    start = time.monotonic()
    with TemporaryDirectory() as folder:
        found = compare(arguments.model, Path(folder), arguments.bytes, arguments.window)
    expected = found["rwkv-cy perplexity"]
    for name, value in found.items():
        print(f"{name}: {value:.10f}, difference {value - expected:.1e}")
    print(f"{arguments.bytes:,} bytes, windows of {arguments.window} tokens, in {time.monotonic() - start:.0f} s")
    return 0 if all(abs(value - expected) <= LIMIT for value in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
