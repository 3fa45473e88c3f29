"""The pages in a real browser: nothing overflows, overlaps, is loaded or complained about, in light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from browser import Page, browser, find_chromium
from checkpoints import random_checkpoint, write_safetensors, write_small
from contracts.cases import CONFIGS
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.pages.diff_page import write_diff_page
from rwkv_cy.toolkit.pages.model_page import write_model_page

pytestmark = pytest.mark.browser

HOSTILE = '<script>document.title="run"</script>"><img src=http:/127.0.0.1:9/x onerror=alert(1)>'

#: Elements beyond the right edge that do not scroll within their own box; their texts are cut.
OVERFLOWING = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') || e.matches('.scroll'))
.filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5
          || e.getBoundingClientRect().left < -0.5).map(e => e.tagName + ': ' + e.textContent.slice(0, 40))"""

#: Texts of pictures that are cut, or that overlap another one.
COLLIDING = """[...document.querySelectorAll('figure svg')].flatMap(svg => {
  const box = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll('text')];
  const boxes = texts.map(text => text.getBoundingClientRect());
  const cut = texts.filter((_, i) => boxes[i].left < box.left - 1 || boxes[i].right > box.right + 1
                                  || boxes[i].top < box.top - 3 || boxes[i].bottom > box.bottom + 3);
  const over = texts.filter((_, i) => boxes.some((other, j) => j < i && other.left < boxes[i].right - 0.5
    && boxes[i].left < other.right - 0.5 && other.top < boxes[i].bottom - 3 && boxes[i].top < other.bottom - 3));
  return [...cut.map(t => 'cut: ' + t.textContent), ...over.map(t => 'over: ' + t.textContent)]
    .map(what => svg.querySelector('title').textContent + ': ' + what);
})"""

#: Texts of pictures that are shown smaller than nine pixels.
SMALL = """[...document.querySelectorAll('figure svg')].filter(svg =>
  svg.querySelector('text') && 11 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width < 9)
  .map(svg => svg.querySelector('title').textContent)"""

#: What is missing for people who do not see the pictures.
UNNAMED = """[...document.querySelectorAll('figure svg')].filter(svg => !svg.querySelector('title').textContent
  || !svg.querySelector('desc').textContent
  || svg.getAttribute('aria-labelledby').split(' ').some(id => !document.getElementById(id))).length
  + document.querySelectorAll('thead th:not([scope=col]), tbody th:not([scope=row])').length"""

FOREIGN = "document.querySelectorAll('script, img, iframe, object, embed, link, form, [src], [href], [onerror]').length"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Page]:
    """Return a page of a browser that is installed."""
    program = find_chromium()
    if program is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    with browser(program) as page:
        yield page


def page_of(case: str, folder: Path, kjv_checkpoint: Path) -> Path:
    """Write the page of a case and return its path."""
    target = folder / "report.html"
    if case == "kjv":
        write_model_page(kjv_checkpoint, target)
    elif case == "diff":
        convert(kjv_checkpoint, folder / "q8.h5", dtype="q8")
        write_diff_page(kjv_checkpoint, folder / "q8.h5", target)
    elif case == "hostile":
        rng = np.random.default_rng(0)
        names = {f"blocks.{i}.{HOSTILE}{part}": rng.standard_normal((3, 5), "f4") for i in range(3) for part in "ab"}
        numbers = np.array([np.nan, np.inf, 1e-40, 3e38], "f4")
        model = write_safetensors(folder / f"\u202e{HOSTILE.replace('/', '|')}.st", names | {"x" * 500: numbers})
        write_model_page(model, target)
    elif case == "hostile diff":
        name = f"blocks.0.{HOSTILE}"
        one = write_safetensors(folder / "<b>a", {name: np.ones((3, 5), "f4"), "<i>only": np.ones(2, "f4")})
        other = write_safetensors(folder / "b", {name: np.zeros((3, 5), "f4"), "x" * 500: np.ones(2, "f4")})
        write_diff_page(one, other, target)
    else:
        write_model_page(write_safetensors(folder / "model.st", random_checkpoint(CONFIGS[case])), target)
    return target


@pytest.mark.parametrize("case", ["kjv", "diff", "hostile", "hostile diff", "rwkv5.0", "rwkv6", "rwkv7", "rwkv7a-odd"])
def test_a_page(chromium: Page, tmp_path: Path, kjv_checkpoint: Path, case: str) -> None:
    page = page_of(case, tmp_path, kjv_checkpoint)
    papers = set()
    for width in (1280, 400):
        for dark in (False, True):
            chromium.open(page, width, dark)
            assert chromium.messages == []
            assert chromium.requests == [page.as_uri()]
            assert chromium.evaluate("document.documentElement.scrollWidth") <= width
            for problem in (OVERFLOWING, COLLIDING, SMALL):
                assert chromium.evaluate(problem) == [], (width, dark)
            assert chromium.evaluate(UNNAMED) == chromium.evaluate(FOREIGN) == 0
            assert chromium.evaluate("document.querySelectorAll('h1').length") == 1
            papers.add(chromium.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(papers) == 2


def test_the_browser_notices(chromium: Page, tmp_path: Path) -> None:
    """The checks above can fail."""
    text = '<h1>x</h1><div style="width:3000px">y</div><script>console.error("z")</script><img src="none.png">'
    figure = (
        '<figure><svg aria-labelledby="q" viewBox="0 0 900 40" width="{}"><title></title><text x="5" y="29">ab</text>'
        '<text x="6" y="29">cd</text></svg></figure>'
    )
    path = tmp_path / "bad.html"
    path.write_text(f"<!doctype html>{text}{figure.format(50)}{figure.format(900)}")
    chromium.open(path, 400, dark=False)
    assert chromium.messages
    assert len(chromium.requests) == 2
    for problem in (OVERFLOWING, COLLIDING, SMALL):
        assert chromium.evaluate(problem) != []
    assert chromium.evaluate(FOREIGN) > 0


def test_a_small_file_is_still_a_page(chromium: Page, tmp_path: Path) -> None:
    """One layer, one number: nothing to compare, and nothing breaks."""
    target = tmp_path / "report.html"
    write_model_page(write_safetensors(tmp_path / "one.st", {"blocks.0.x": np.ones(1, "f4")}), target)
    chromium.open(target, 400, dark=False)
    assert chromium.evaluate(OVERFLOWING) == chromium.evaluate(COLLIDING) == []
    other = tmp_path / "same.html"
    write_diff_page(write_small(tmp_path / "a"), tmp_path / "a", other)
    chromium.open(other, 400, dark=False)
    assert "are equal" in chromium.evaluate("document.body.textContent")
