"""Text in columns that fits a terminal: lines broken between words, and tables by rich where it is installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rwkv_cy.runtime import columns_setting

__all__ = ["print_rich_table", "terminal_width", "wrapped"]

#: Columns of a terminal that does not tell, and of the narrowest that lines are broken for.
_USUAL, _NARROWEST = 80, 20


def terminal_width() -> int:
    """Return the columns of the terminal that standard output is, as COLUMNS or the system says; 0 if it is not one."""
    if not sys.stdout.isatty():
        return 0
    columns = columns_setting()
    if columns:
        return columns
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _USUAL
    except (OSError, ValueError):
        return _USUAL


def wrapped(text: str, width: int) -> list[str]:
    """Return the lines of a text that is broken at spaces; a longer word has a line of its own. 0 is any width."""
    if not width or len(text) <= width:
        return [text]
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > max(width, _NARROWEST):
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return lines


def print_rich_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> bool:
    """Print a table with rich; return False, and print nothing, where rich is not installed.

    It honours NO_COLOR and TERM. Cells are printed as they are: without markup.
    """
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in header:
        table.add_column(Text(name), justify="right" if name in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(file=sys.stdout).print(table)
    return True
