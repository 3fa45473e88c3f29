"""What the command prints: sizes, tables, JSON, warnings and errors, all safe for a terminal."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rwkv_cy.cli.colours import Style, styled
from rwkv_cy.cli.tables import print_rich_table, terminal_width, wrapped
from rwkv_cy.units import byte_size

if TYPE_CHECKING:
    from rwkv_cy.config import Config

__all__ = [
    "byte_size",
    "config_fields",
    "is_quiet",
    "markdown_table",
    "print_error",
    "print_fields",
    "print_json",
    "print_page",
    "print_table",
    "print_warning",
    "printable",
    "quiet",
    "stacked",
    "table",
    "warnings_as_lines",
    "write_bytes",
    "write_prompt",
]

#: Whether warnings and progress bars are left out.
_quiet = False


def printable(text: str, keep: str = "") -> str:
    r"""Return `text` with control characters escaped, as ``\x1b``; those in `keep` are not changed.

    Names and settings in a file are untrusted: their control sequences must not reach the terminal.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def config_fields(config: Config) -> dict[str, str]:
    """Return the dimensions of a model by name, for :func:`print_fields`."""
    fields = {
        "layers": str(config.num_layers),
        "d_model": str(config.d_model),
        "d_att": str(config.d_att),
        "d_ffn": str(config.d_ffn),
        "vocabulary": f"{config.vocab_size:,}",
        "layer norm eps": f"{config.layer_norm_eps:g}",
    }
    if config.head_size:
        fields["heads"] = f"{config.d_att // config.head_size} of size {config.head_size}"
        fields["group norm eps"] = f"{config.group_norm_eps:g}"
    if config.ranks:
        fields["ranks"] = ", ".join(f"{name} {rank}" for name, rank in config.ranks.items())
    if config.rescale_layer:
        fields["rescale layer"] = str(config.rescale_layer)
    return fields


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> list[str]:
    """Return the lines of a table with aligned columns; those named in `right` are right-aligned."""
    cells = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        aligned = (
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        )
        lines.append("  ".join(aligned).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def stacked(header: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> list[str]:
    """Return the rows of a table one below the other: the first cell, then names and values, in lines of `width`."""
    lines = []
    for first, *others in rows:
        lines.append(printable(first))
        line = ""
        for name, cell in zip(header[1:], others, strict=True):
            pair = f"{name} {printable(cell)}"
            if line and len(line) + 2 + len(pair) > width:
                lines.append(line)
                line = ""
            line = f"{line}, {pair}" if line else f"  {pair}"
        lines.append(line)
    return lines


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown, with right-aligned columns."""
    cells = [header, *([printable(cell).replace("|", "\\|") for cell in row] for row in rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + "---:|" * len(header), *lines[1:]]


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Print the lines of :func:`table` on standard output; on a terminal too narrow for them, of :func:`stacked`.

    On a terminal that is wide enough, rich prints the table where it is installed.
    """
    rows = [tuple(map(printable, row)) for row in rows]
    lines = table(header, rows, right)
    width = terminal_width()
    if width and max(map(len, lines)) > width:
        lines = stacked(header, rows, width)
    elif width and print_rich_table(header, rows, right):
        return
    print("\n".join(lines))


def print_fields(fields: Mapping[str, str], styles: Mapping[str, Style] | None = None) -> None:
    """Print names and values in two columns on standard output; on a terminal, wrapped between the words of values.

    `styles` has those of values, by name.
    """
    width = max(map(len, fields)) + 2
    columns = terminal_width()
    for name, value in fields.items():
        lines = wrapped(printable(value), columns and max(1, columns - width))
        if styles and name in styles:
            lines = [styled(line, styles[name], sys.stdout) for line in lines]
        gap = "\n" + " " * width
        print(f"{name.ljust(width)}{gap.join(lines)}".rstrip())


def print_json(value: Mapping[str, Any]) -> None:
    """Print `value` as JSON, in ASCII, on standard output."""
    import json  # which most runs do not print

    print(json.dumps(value, indent=2, allow_nan=False))


def write_prompt(prompt: bytes) -> None:
    """Write a prompt to standard output at once: UTF-8 as the generated text after it, other bytes unchanged."""
    try:
        sys.stdout.write(prompt.decode("utf-8"))
        sys.stdout.flush()
    except UnicodeDecodeError:
        write_bytes(prompt)


def write_bytes(data: bytes) -> None:
    """Write bytes to standard output at once and unchanged: a text from outside need not be UTF-8."""
    sys.stdout.flush()
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:  # a stream of text alone, in place of that of the process
        sys.stdout.write(data.decode("utf-8", "replace"))
        return
    binary.write(data)
    binary.flush()


def print_page(path: Path | None) -> None:
    """Print where the page with the report is, if there is one, on standard output."""
    if path is not None:
        print(f"\n{printable(str(path))}: the report, {byte_size(path.stat().st_size)}")


def print_warning(message: str) -> None:
    """Print a warning of one line on standard error; with --quiet, nothing."""
    if not _quiet:
        _print_message("warning", message)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print the package's warnings as :func:`print_warning` does, each time, for the length of a with statement."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print_warning(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", RuntimeWarning)
        warnings.showwarning = show
        yield


def print_error(message: str) -> None:
    """Print an error of one line on standard error."""
    _print_message("error", message)


def _print_message(kind: Literal["error", "warning"], message: str) -> None:
    print(styled(f"rwkv-cy: {kind}:", kind, sys.stderr), printable(message), file=sys.stderr)


@contextmanager
def quiet(enabled: bool) -> Iterator[None]:
    """Leave out warnings and progress bars for the length of a with statement, if `enabled`."""
    global _quiet
    before, _quiet = _quiet, enabled
    try:
        yield
    finally:
        _quiet = before


def is_quiet() -> bool:
    """Tell whether warnings and progress bars are left out."""
    return _quiet
