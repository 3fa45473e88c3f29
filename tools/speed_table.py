"""Prints the README's table of speeds beside other programs, from the tables of docs/performance.md.

python -m tools.speed_table
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["speed_table"]

_PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
_COLUMNS = ["", "beside", "decode, times as fast (beside)", "prefill 512, times as fast (beside)"]
_PROGRAMS = {
    "llama.cpp": "llama.cpp",
    "rwkv": "`rwkv` on torch",
    "transformers": "transformers",
    "rwkv.cpp": "rwkv.cpp (2023)",
}
#: Storage types by the bits of a weight.
_TYPES = {32: ("f32",), 16: ("f16", "bf16", "bf16+", "bf12"), 8: ("q8",), 4: ("q4", "q4n")}


def speed_table() -> str:
    """Return the table in Markdown: with each number of bits, what the fastest storage type reaches."""
    ratios = _ratios()
    lines = [f"| times as fast as | {' | '.join(_PROGRAMS.values())} |", f"|---|{'--:|' * len(_PROGRAMS)}"]
    for measurement, label in enumerate(("decode: ", "prompt of 512: ")):
        for bits, types in _TYPES.items():
            found = [
                [ratios[program, dtype][measurement] for dtype in types if (program, dtype) in ratios]
                for program in _PROGRAMS
            ]
            cells = [_rounded(max(numbers)) if numbers else "" for numbers in found]
            lines.append(f"| {label}{bits} bits | {' | '.join(cells)} |".replace("|  ", "| "))
            label = ""
    return "\n".join(lines) + "\n"


def _rounded(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _ratios() -> dict[tuple[str, str], tuple[float, float]]:
    """Return decode and prompt as multiples of each program in each of our storage types, of the newest CPU."""
    return {
        (program, label.rpartition(", ")[2]): (float(decode.split()[0]), float(prompt.split()[0]))
        for label, program, decode, prompt in _rows()
    }


def _rows() -> Iterator[list[str]]:
    """Yield the rows of every table that has these columns. Those of other CPUs have another first one."""
    for table in re.findall(r"(?:^\|.*\n)+", _PAGE.read_text("utf-8"), re.MULTILINE):
        header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
        if header == _COLUMNS:
            yield from rows


if __name__ == "__main__":
    print(speed_table(), end="")
