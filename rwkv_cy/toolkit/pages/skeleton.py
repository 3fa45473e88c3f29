"""The frame of a page and its parts that are not pictures: sections, facts, tables, notes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from rwkv_cy.records import dataclass
from rwkv_cy.toolkit.pages.markup import Child, Markup, element, escaped, join
from rwkv_cy.toolkit.pages.style import PAGE_STYLE

__all__ = ["MARK", "Table", "details", "facts", "listed", "notes", "page", "section", "tensor_name"]

#: What every page begins with: files without it are never replaced.
MARK = "<!doctype html>\n<!-- report of rwkv_cy -->\n"

#: Nothing is loaded or run: only this one style sheet applies.
_POLICY = "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'"


def page(title: str, lead: Child, sections: Iterable[Markup | None], footer: str, header: Child = None) -> str:
    """Return a whole page.

    Parameters
    ----------
    title : str
        Of the page, and its heading.
    lead : str or Markup
        The line below the heading.
    sections : iterable of Markup or None
    footer : str
    header : str or Markup, optional
        Further content of the head of the page.
    """
    digest = base64.b64encode(hashlib.sha256(PAGE_STYLE.encode()).digest()).decode()
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY.format(digest)),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="referrer", content="no-referrer"),
        element("meta", name_="color-scheme", content="light dark"),
        element("title", title),
        Markup(f"<style>{PAGE_STYLE}</style>"),
    )
    body = element(
        "body",
        element("header", element("h1", title), element("p", lead, class_="lead"), header),
        element("main", *sections),
        element("footer", footer),
    )
    return f'{MARK}<html lang="en">{head}{body}</html>\n'


def section(title: str, *children: Child) -> Markup:
    """Return a section with its heading."""
    return element("section", element("h2", title), *children)


def facts(entries: Mapping[str, Child | tuple[str, str]]) -> Markup:
    """Return names and values as tiles; a value may come with a line below it."""
    tiles = []
    for name, value in entries.items():
        main, below = value if isinstance(value, tuple) else (value, None)
        small = None if below is None else element("small", below)
        tiles.append(element("div", element("dt", name), element("dd", main, small)))
    return element("dl", *tiles, class_="facts")


def notes(lines: Iterable[Child], kind: str = "") -> Markup:
    """Return remarks as a list; `kind` is ``"alarm"``, ``"good"`` or nothing."""
    return element("ul", *(element("li", line) for line in lines), class_=f"notes {kind}".strip())


def tensor_name(name: str) -> Markup:
    """Return the name of a tensor for a cell of a table: lines may end after its dots."""
    break_ = Markup("<wbr>")
    first, *rest = escaped(name).split(".")
    return element("code", Markup(first), *(join(Markup("."), break_, Markup(part)) for part in rest))


def listed(names: Iterable[str], most: int) -> Markup:
    """Return names one after the other, at most so many, and the number of the others."""
    every = list(names)
    shown: list[Child] = []
    for name in every[:most]:
        shown += [", " if shown else None, element("code", name)]
    return join(*shown, f" and {len(every) - most:,} more" if len(every) > most else None)


def details(summary: str, *children: Child) -> Markup:
    """Return content that is shown on demand."""
    return element("details", element("summary", summary), *children)


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes
    ----------
    header : sequence of str
        Names of the columns.
    numeric : set of str
        Those of numbers, which are aligned to the right.
    bars : set of str
        Those of bars.
    optional : set of str
        Those that narrow pages leave out.
    prose : set of str
        Those of long texts, which may have several lines.
    """

    header: Sequence[str]
    numeric: frozenset[str] = frozenset()
    bars: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    prose: frozenset[str] = frozenset()

    def render(self, label: str, rows: Iterable[Sequence[Child]], caption: Child = None) -> Markup:
        """Return the table; it scrolls sideways where the page is too narrow for it.

        Parameters
        ----------
        label : str
            Its name, for screen readers.
        rows : iterable of sequence of (str or Markup)
            One cell for each column.
        caption : str or Markup, optional
            A line above it.
        """
        heads = (element("th", name, scope="col", class_=self._class(name)) for name in self.header)
        lines = []
        for first, *others in rows:
            cells = (
                element("td", cell, class_=self._class(name))
                for name, cell in zip(self.header[1:], others, strict=True)
            )
            lines.append(element("tr", element("th", first, scope="row"), *cells))
        table = element(
            "table",
            None if caption is None else element("caption", caption),
            element("thead", element("tr", *heads)),
            element("tbody", join(*lines)),
        )
        return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)

    def _class(self, name: str) -> str | None:
        classes = (("n", self.numeric), ("bar", self.bars), ("o", self.optional), ("p", self.prose))
        return " ".join(letter for letter, names in classes if name in names) or None
