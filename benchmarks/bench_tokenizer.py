"""The cost of encoding compared with prefill: the World tokenizer and a 0.1B model, alternating.

The vocabulary is that of the ``rwkv`` package, or the file that is named:
``python -m benchmarks.bench_tokenizer [VOCABULARY] [TEXT ...]``. The model is synthetic, RWKV-4 of 12 layers and 768
channels in bf16 with the World vocabulary: the smallest that is published, so that encoding weighs most. Where
``pyrwkv-tokenizer``, which is written in Rust, is installed, its results are compared, and its speed is shown.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from benchmarks.checkpoints import FOLDER, write_checkpoint
from rwkv_cy import Config, load
from rwkv_cy.files.vocabulary_files import packaged_vocabulary
from rwkv_cy.text.tokenizers.vocabulary import WORLD_SIZE
from rwkv_cy.text.tokenizers.world import WorldTokenizer

ROUNDS = 7
#: Tokens of a text that the model reads in a round; encoding processes the whole text.
PREFILL_TOKENS = 1024
MODEL = Config(d_model=768, num_layers=12, vocab_size=WORLD_SIZE)


def built_in_texts() -> dict[str, str]:
    """Texts of a few kinds: English, Chinese, code."""
    root = Path(__file__).resolve().parent.parent
    return {
        "English": (root / "data" / "kjv-heldout.txt").read_text(encoding="utf-8"),
        "Chinese": "人生若只如初见何事秋风悲画扇。等闲变却故人心却道故人心易变。" * 100,
        "Python": "\n".join(p.read_text(encoding="utf-8") for p in sorted((root / "rwkv_cy").rglob("*.py"))),
        "Markdown": "\n".join(p.read_text(encoding="utf-8") for p in sorted((root / "docs").glob("*.md"))),
    }


def tokens_a_second(work: Callable[[], object], tokens: int) -> float:
    """Speed of one call that handles this number of tokens."""
    start = time.perf_counter()
    work()
    return tokens / (time.perf_counter() - start)


def main(arguments: list[str]) -> None:
    """Print a line for each text."""
    start = time.perf_counter()
    vocabulary = Path(arguments[0]) if arguments else packaged_vocabulary()
    stored = WorldTokenizer.from_text(vocabulary.read_bytes(), str(vocabulary)).to_bytes()
    middle = time.perf_counter()
    world = WorldTokenizer.from_bytes(stored)
    world.encode("the first text builds the table")
    print(f"loading: {middle - start:.3f} s from text, {time.perf_counter() - middle:.3f} s from the packed form")
    rust = None
    if find_spec("pyrwkv_tokenizer"):
        import pyrwkv_tokenizer

        rust = pyrwkv_tokenizer.RWKVTokenizer()
    checkpoint = FOLDER / "world-0.1b-bf16.pth"
    if not checkpoint.exists():
        write_checkpoint(checkpoint, MODEL, "bf16")
    model = load(checkpoint, tokenizer="bytes")
    texts = {name: Path(name).read_text(encoding="utf-8") for name in arguments[1:]} or built_in_texts()
    print(f"{'text':<12}{'bytes':>9}{'tokens':>9}{'encode/s':>12}{'prefill/s':>12}{'share':>8}{'rust/s':>13}")
    for name, text in texts.items():
        ids = world.encode(text)
        if rust is not None and rust.encode(text) != ids:
            sys.exit(f"{name}: the tokenizers disagree")
        part = ids[:PREFILL_TOKENS]
        columns = zip(
            *[
                (
                    tokens_a_second(lambda text=text: world.encode(text), len(ids)),
                    tokens_a_second(lambda part=part: model.forward(part), len(part)),
                    tokens_a_second(lambda text=text: rust.encode(text), len(ids)) if rust is not None else 0.0,
                )
                for _ in range(ROUNDS)
            ],
            strict=True,
        )
        encode, prefill, other = (statistics.median(column) for column in columns)
        print(
            f"{name:<12}{len(text.encode()):>9,}{len(ids):>9,}{encode:>12,.0f}{prefill:>12,.0f}"
            f"{prefill / encode:>8.2%}{format(other, ',.0f') if rust is not None else '-':>13}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
