"""Looks at every page of the documentation in a browser, wide and on a phone, in light and dark: ``make test-docs``.

python -m docs_pages FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from browser import Page, browser, find_chromium

__all__ = ["faults", "pages"]

#: Widths of a window, and of a phone.
WIDTHS = (1400, 390)
#: What a page has: its widths, elements beyond its right edge that no box scrolls, names in tables that are broken
#: within a word, and blocks of code without a button to copy them.
LOOK = """((width) => {
  const cut = (element) => {
    if (element.getBoundingClientRect().right <= width + 1) return false;
    for (let box = element.parentElement; box; box = box.parentElement) {
      if (["auto", "scroll"].includes(getComputedStyle(box).overflowX)) return false;
    }
    return true;
  };
  const broken = (code) => /^[^\\s\\-\\/,|]+$/.test(code.textContent) && code.getClientRects().length > 1;
  const named = (selector, test) => [...document.querySelectorAll(selector)].filter(test).map((e) => e.textContent);
  return {
    sideways: document.documentElement.scrollWidth - width,
    cut: named("article *", (e) => e.getClientRects().length && cut(e)),
    broken: named("table code", broken),
    copy: named("div.highlight", (block) => !block.querySelector("button.copybtn")),
    text: document.querySelector("article").textContent.trim().length,
  };
})(%d)"""


def pages(root: Path) -> list[Path]:
    """Return the pages, without those that show source code."""
    return [path for path in sorted(root.rglob("*.html")) if not {"_modules", "_static"} & set(path.parts)]


def faults(page: Page, path: Path) -> Iterator[str]:
    """Yield what is wrong with a page, in each width, in light and dark."""
    for width in WIDTHS:
        for dark in (False, True):
            page.open(path, width, dark)
            seen: dict[str, Any] = page.evaluate(LOOK % width)
            where = f"{path.name}, {width} pixels{', dark' if dark else ''}"
            if seen["sideways"] > 1:
                yield f"{where}: scrolls sideways by {seen['sideways']} pixels"
            for what, advice in (("cut", "is cut off"), ("broken", "is broken"), ("copy", "cannot be copied")):
                if seen[what]:
                    yield f"{where}: {seen[what][0][:60]!r} {advice}, and {len(seen[what]) - 1} more"
            if page.messages:
                yield f"{where}: {page.messages[0]}"
            lightness = page.evaluate(
                "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
            )
            if (sum(lightness) < 3 * 128) != dark:
                yield f"{where}: the background is {lightness}"


def main() -> int:
    """Look at the pages of a folder; return 1 if something is wrong with one."""
    program = find_chromium()
    if program is None:
        sys.exit("docs_pages: expected a Chromium, found none; install chromium")
    found = pages(Path(sys.argv[1]))
    if not found:
        sys.exit(f"docs_pages: {sys.argv[1]}: expected pages, found none; make docs builds them")
    wrong = 0
    with browser(program) as page:
        for path in found:
            for fault in faults(page, path.resolve()):
                print(fault)
                wrong += 1
    print(f"{len(found)} pages, {wrong} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
