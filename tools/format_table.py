"""Prints the README's table of formats by version, from the registries: what is read (r) and what is written (w).

python -m tools.format_table
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.architectures.base import Architecture
from rwkv_cy.config import Config
from rwkv_cy.formats.layouts import EXPORT_LAYOUTS, LAYOUTS
from rwkv_cy.formats.layouts.layout import Shapes
from rwkv_cy.formats.writers import EXPORT_FORMATS

__all__ = ["ROWS", "format_table"]

#: Label, export format and layout of each row. A row without a format is of one that is only read.
ROWS: tuple[tuple[str, str | None, str], ...] = (
    ("PyTorch `.pth`", "pth", "original"),
    ("safetensors, BlinkDL's names", "safetensors", "original"),
    ("safetensors of web-rwkv, `.st`", "st", "web-rwkv"),
    ("Hugging Face folder, transformers", "huggingface", "transformers"),
    ("Hugging Face folder, flash-linear-attention", "huggingface", "fla"),
    ("Hugging Face folder, transformers-rwkv", None, "transformers-rwkv"),
    ("GGUF of llama.cpp", "gguf", "llama.cpp"),
    ("rwkv.cpp `.bin`", "rwkvcpp", "rwkv.cpp"),
)
_OWN = "model file (HDF5)"


def format_table() -> str:
    """Return the table in Markdown."""
    versions = list(ARCHITECTURES.values())
    lines = [
        _line("", [version.label.removeprefix("RWKV-") for version in versions]),
        _line("---", [":-:"] * len(versions)),
        _line(_OWN, ["rw"] * len(versions)),
        *(_line(label, [_cell(name, layout, version) for version in versions]) for label, name, layout in ROWS),
    ]
    return "\n".join(lines) + "\n"


def _line(label: str, cells: Sequence[str]) -> str:
    return f"| {label} | {' | '.join(cells)} |"


def _cell(name: str | None, layout: str, version: Architecture) -> str:
    tables = EXPORT_LAYOUTS.get(layout) or tuple(table for table in LAYOUTS if table.name.startswith(layout))
    if not any(table.holds(shapes) for table in tables for shapes in _shapes(version)):
        return ""
    return "rw" if name in EXPORT_FORMATS else "r"


def _shapes(version: Architecture) -> Iterator[Shapes]:
    """Yield names and shapes of a model, with the parameters that checkpoints may leave out and without."""
    config = version.complete(Config(d_model=128, num_layers=2, vocab_size=64, architecture=version.name))
    specs = version.parameters(config)
    yield {spec.name: spec.shape for spec in specs}
    yield {spec.name: spec.shape for spec in specs if not spec.optional}


if __name__ == "__main__":
    print(format_table(), end="")
