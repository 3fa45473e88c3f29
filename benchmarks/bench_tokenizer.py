"""Speed of the World tokenizer beside pyrwkv-tokenizer, in one process, alternating; medians.

Needs ``pip install pyrwkv-tokenizer``. The vocabulary is the one that the package brings, or the file that is named:
``python -m benchmarks.bench_tokenizer [VOCABULARY] [TEXT ...]``.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyrwkv_tokenizer

from rwkv_cy.text.world import VOCABULARY_FILE, WorldTokenizer

ROUNDS = 41
#: Bytes that are encoded at least between two looks at the clock.
BYTES_A_ROUND = 50_000


def built_in_texts() -> dict[str, str]:
    """Texts of a few kinds: long and short, English, Chinese, code."""
    root = Path(__file__).resolve().parent.parent
    english = (root / "data" / "kjv-heldout.txt").read_text(encoding="utf-8")
    return {
        "English": english,
        "one line": english.splitlines()[3],
        "a few words": "In the beginning",
        "Chinese": "人生若只如初见何事秋风悲画扇。等闲变却故人心却道故人心易变。" * 100,
        "Python": "\n".join(p.read_text(encoding="utf-8") for p in sorted((root / "rwkv_cy").rglob("*.py"))),
    }


def timed(encode: Callable[[str], list[int]], text: str, times: int) -> float:
    """Seconds that `times` calls take."""
    start = time.perf_counter()
    for _ in range(times):
        encode(text)
    return time.perf_counter() - start


def main(arguments: list[str]) -> None:
    """Print a line for each text."""
    packaged = Path(pyrwkv_tokenizer.__file__).parent / VOCABULARY_FILE
    ours = WorldTokenizer.from_text((Path(arguments[0]) if arguments else packaged).read_bytes())
    theirs = pyrwkv_tokenizer.RWKVTokenizer()
    texts = {name: Path(name).read_text(encoding="utf-8") for name in arguments[1:]} or built_in_texts()
    print(f"{'text':<14}{'bytes':>10}{'tokens':>10}{'theirs':>10}{'ours':>10}  ns a byte{'ratio':>8}")
    for name, text in texts.items():
        if ours.encode(text) != theirs.encode(text):
            sys.exit(f"{name}: the tokenizers disagree")
        size = len(text.encode())
        times = max(1, BYTES_A_ROUND // size)
        pairs = [(timed(theirs.encode, text, times), timed(ours.encode, text, times)) for _ in range(ROUNDS)]
        a, b = (statistics.median(column) * 1e9 / (size * times) for column in zip(*pairs, strict=True))
        ratio = statistics.median(x / y for x, y in pairs)
        print(f"{name:<14}{size:>10}{len(ours.encode(text)):>10}{a:>10.2f}{b:>10.2f}  {'':>9}{ratio:>8.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
