"""Prints the README's table of formats by version, from the registries: what is read (r) and what is written (w).

python -m tools.format_table
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.architectures.base import Architecture
from rwkv_cy.config import Config
from rwkv_cy.formats.layouts import EXPORT_LAYOUTS, LAYOUTS, layouts_of
from rwkv_cy.formats.layouts.layout import Layout, Shapes
from rwkv_cy.formats.writers import EXPORT_FORMATS

__all__ = ["ROWS", "Row", "format_table"]


@dataclass(frozen=True)
class Row:
    """A format in one layout.

    Attributes
    ----------
    label : str
    format : str or None
        Key of the format that writes it; None if it is only read.
    layout : str
        Key of the layout that is written, or what the names of the layouts that are read begin with.
    read : str, optional
        What the names of the layouts that are read begin with, if more are read than written.
    """

    label: str
    format: str | None
    layout: str
    read: str = ""


ROWS = (
    Row("PyTorch `.pth`", "pth", "original"),
    Row("safetensors, BlinkDL's names", "safetensors", "original"),
    Row("safetensors of web-rwkv, `.st`", "st", "web-rwkv"),
    Row("Hugging Face folder, transformers", "huggingface", "transformers", "transformers,"),
    Row("Hugging Face folder, flash-linear-attention", "huggingface", "fla", "flash-linear-attention"),
    Row("Hugging Face folder, transformers-rwkv", None, "", "transformers-rwkv"),
    Row("GGUF of llama.cpp", "gguf", "llama.cpp"),
    Row("rwkv.cpp `.bin`", "rwkvcpp", "rwkv.cpp", "rwkv.cpp,"),
)
_OWN = "model file (HDF5)"


def format_table() -> str:
    """Return the table in Markdown."""
    versions = list(ARCHITECTURES.values())
    lines = [
        _line("", [version.label.removeprefix("RWKV-") for version in versions]),
        _line("---", [":-:"] * len(versions)),
        _line(_OWN, ["rw"] * len(versions)),
        *(_line(row.label, [_cell(row, version) for version in versions]) for row in ROWS),
    ]
    return "\n".join(lines) + "\n"


def _line(label: str, cells: Sequence[str]) -> str:
    return f"| {label} | {' | '.join(cells)} |"


def _cell(row: Row, version: Architecture) -> str:
    models = list(_shapes(version))
    written = EXPORT_LAYOUTS.get(row.layout, ())
    known = (*LAYOUTS, *layouts_of("rwkvcpp", {}))
    read = tuple(layout for layout in known if row.read and layout.name.startswith(row.read)) + written
    if not _holds(read, models):
        return ""
    return "rw" if row.format in EXPORT_FORMATS and _holds(written, models) else "r"


def _holds(layouts: Sequence[Layout], models: Sequence[Shapes]) -> bool:
    return any(layout.holds(shapes) for layout in layouts for shapes in models)


def _shapes(version: Architecture) -> Iterator[Shapes]:
    """Yield names and shapes of a model, with the parameters that checkpoints may leave out and without."""
    config = version.complete(Config(d_model=128, num_layers=2, vocab_size=64, architecture=version.name))
    specs = version.parameters(config)
    yield {spec.name: spec.shape for spec in specs}
    yield {spec.name: spec.shape for spec in specs if not spec.optional}


if __name__ == "__main__":
    print(format_table(), end="")
