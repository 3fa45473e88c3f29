"""HTML and SVG elements as text: everything that is not an element already is escaped."""

from __future__ import annotations

import html
import re

__all__ = ["Child", "Markup", "element", "escaped", "join"]

#: Longer texts of a file are cut.
_LONGEST = 300
#: Elements without content.
_VOID = frozenset({"meta", "br", "hr", "col"})
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*")


class Markup(str):
    """Text that is valid HTML: elements, or escaped text."""

    __slots__ = ()


Child = str | Markup | None


def escaped(text: str, longest: int = _LONGEST) -> Markup:
    r"""Return a text as HTML that shows it, whatever it holds.

    Control and formatting characters, among them those that reverse the direction of text, are shown as escape
    sequences, as ``\x1b``; texts that are longer than `longest` are cut.
    """
    if isinstance(text, Markup):
        return text
    if len(text) > longest:
        text = f"{text[:longest]}\N{HORIZONTAL ELLIPSIS}"
    return Markup(_visible(text))


def _visible(text: str) -> str:
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return html.escape(text)


def join(*children: Child) -> Markup:
    """Return elements and texts one after the other; those that are None are left out."""
    return Markup("".join(escaped(child) for child in children if child is not None))


def element(name: str, *children: Child, **attributes: str | float | None) -> Markup:
    """Return an element.

    Parameters
    ----------
    name : str
        Its tag.
    *children : str, Markup or None
        Content; texts are escaped.
    **attributes : str, float or None
        Underscores in names stand for hyphens, one at the end for nothing; attributes that are None are left out.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        if not _NAME.fullmatch(attribute):
            raise ValueError(f"attribute: expected a name of letters, digits and hyphens, got {attribute!r}")
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        parts.append(f'{attribute}="{_visible(shown)}"')
    opening = f"<{' '.join(parts)}>"
    if name in _VOID:
        return Markup(opening)
    return Markup(f"{opening}{join(*children)}</{name}>")
