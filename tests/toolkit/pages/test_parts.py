"""Markup, numbers, scales, colours and charts: the parts that pages are made of."""

from __future__ import annotations

import html.parser
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from rwkv_cy.tensors.histogram import WeightHistogram
from rwkv_cy.toolkit.pages.axes import channel_labels, layer_labels, name_labels, thinned
from rwkv_cy.toolkit.pages.charts import Colours, band, bar, colours_of, heat_map, histogram, layer_line
from rwkv_cy.toolkit.pages.markup import Markup, element, escaped, join
from rwkv_cy.toolkit.pages.numbers import Scale, count, nice_ticks, number, percent, plural, shape_text
from rwkv_cy.toolkit.pages.skeleton import Table, page
from rwkv_cy.toolkit.pages.style import COLOURS, LEVELS, PAGE_STYLE
from rwkv_cy.toolkit.pages.svg import cells, picture, standalone

# --- markup ---


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>&\"'", "&lt;script&gt;&amp;&quot;&#x27;"),
        ("a\x1b[31m\n\u202eb\u2066", "a\\x1b[31m\\n\\u202eb\\u2066"),
        ("\udc80", "\\udc80"),
        ("blöd 漢", "blöd 漢"),
        ("x" * 400, "x" * 300 + "…"),
    ],
)
def test_texts_are_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown
    assert element("p", text) == f"<p>{shown}</p>"


def test_elements() -> None:
    assert element("a", "<", Markup("<b>x</b>"), None, class_="n", data_x='"', width=1.5, left=None) == (
        '<a class="n" data-x="&quot;" width="1.5">&lt;<b>x</b></a>'
    )
    assert element("a", aria_label="\x1b\u202e<") == '<a aria-label="\\x1b\\u202e&lt;"></a>'
    assert element("meta", name_="x") == '<meta name="x">'
    assert join("<", None, Markup("<br>")) == "&lt;<br>"
    with pytest.raises(ValueError, match="attribute: expected a name"):
        element("p", **{'x" onload="y': "z"})


# --- numbers ---


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (-1.25, "−1.25"),
        (1234.5, "1,230"),
        (-1e7, "−1×10⁷"),
        (1000.0, "1,000"),
        (10_000.0, "10⁴"),
        (25_000.0, "25,000"),
        (1e7, "10⁷"),
        (2.5e-7, "2.5×10⁻⁷"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_number(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_numbers_of_a_column() -> None:
    values = (0.0, 0.0054, -12.0, 123.0, 5000.0, 2e-7, 1e9)
    assert [number(value, fixed=True) for value in values] == (
        ["0", "0.00540", "−12.0", "123", "5,000", "2.00×10⁻⁷", "1.00×10⁹"]
    )


def test_counts_and_shares() -> None:
    assert [count(n) for n in (0, 9999, 10_000, 999_600, 1_352_448, 13_300_000_000, 7 * 10**14)] == (
        ["0", "9,999", "10.0 k", "1.00 M", "1.35 M", "13.3 B", "700 T"]
    )
    assert [percent(x) for x in (0, 1e-6, 0.1234, 1)] == ["0.0 %", "<0.1 %", "12.3 %", "100 %"]
    assert [plural(n, "tensor") for n in (1, 2000)] == ["1 tensor", "2,000 tensors"]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 7), (0.02, 0.021), (-1e-12, 5e300), (0, 1e9), (-1e38, 1e38)])
@pytest.mark.parametrize("most", [2, 5, 8])
def test_ticks_are_few_round_and_within(low: float, high: float, most: int) -> None:
    ticks = nice_ticks(low, high, most)
    assert 1 <= len(ticks) <= most + 1
    slack = (high - low) * 1e-6
    assert low - slack <= ticks[0] <= ticks[-1] <= high + slack
    if len(ticks) > 1:
        step = ticks[1] - ticks[0]
        leading = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert leading == pytest.approx(round(leading))


def test_ranges_without_a_width() -> None:
    assert nice_ticks(3, 3) == [3]
    assert nice_ticks(-1.7e308, 1.7e308) == [-1.7e308]
    assert Scale(3, 3, 0, 10)(3) == 5


def test_scales() -> None:
    scale = Scale(0, 10, 100, 200)
    assert [scale(x) for x in (-1, 0, 5, 11)] == [100, 100, 150, 200]
    assert Scale(-1.7e308, 1.7e308, 0, 10)(0) == 5
    powers = Scale(0.1, 1000, 0, 4, logarithmic=True)
    assert [powers(x) for x in (0, 0.1, 10, 1e9)] == pytest.approx([0, 0, 2, 4])
    assert powers.ticks() == pytest.approx([0.1, 1, 10, 100, 1000])
    assert len(Scale(1e-30, 1e30, 0, 1, logarithmic=True).ticks(5)) <= 6


def test_labels_of_axes() -> None:
    assert layer_labels(4, 4) == [(0.5, "0"), (1.5, "1"), (2.5, "2"), (3.5, "3")]
    assert [text for _, text in layer_labels(61, 61)] == ["0", "20", "40", "60"]
    assert all(0 <= place <= 64 for place, _ in layer_labels(100_000, 64))
    assert [text for _, text in channel_labels(2048, 96)] == ["0", "512", "1,024", "1,536", "2,047"]
    assert [text for _, text in channel_labels(3, 3)] == ["0", "1", "2"]


def test_shapes() -> None:
    assert shape_text((1024, 3)) == "1,024 × 3"
    assert shape_text(()) == "scalar"


def test_labels_of_names() -> None:
    names = ["att.key.weight", "att.time_maa_x", "a.very.long.name.of.a.vector"]
    assert name_labels(names) == [(0.5, "att.key"), (1.5, "att.time_maa_x"), (2.5, "…name.of.a.vector")]


def test_long_series_are_averaged() -> None:
    assert thinned({2: [5.0], 0: [1.0]}, 3) == [(0, [1]), (2, [5])]
    points = thinned({i: [float(i)] for i in range(1000)}, 1000)
    assert len(points) == 200
    assert points[0] == (2, [2])


# --- colours ---


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2.2."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("ground", ["paper", "panel"])
def test_contrast(dark: bool, ground: str) -> None:
    """Text has 4.5 and marks have 3 (WCAG 2.2, 1.4.3 and 1.4.11); links are text in the colour of marks."""
    for name in ("ink", "muted", "mark", "alarm"):
        assert contrast(COLOURS[name][dark], COLOURS[ground][dark]) >= 4.5, name
    assert contrast(COLOURS["second"][dark], COLOURS[ground][dark]) >= 3


@pytest.mark.parametrize("dark", [False, True])
def test_colours_of_heat_maps_are_in_order(dark: bool) -> None:
    """Without hue, the sequential colours still rise, and the diverging ones rise from the middle."""
    block = PAGE_STYLE.split("prefers-color-scheme:dark")[dark]
    found = {name: luminance(colour) for name, colour in re.findall(r"--([sd]\d+):(#\w{6});", block)}
    sequential = [found[f"s{i}"] for i in range(LEVELS)]
    assert sequential == sorted(sequential, reverse=not dark)
    right = [found[f"d{i}"] for i in range(LEVELS // 2, LEVELS)]
    left = [found[f"d{i}"] for i in range(LEVELS // 2, -1, -1)]
    for half in (left, right):
        assert half == sorted(half, reverse=not dark)


def test_levels() -> None:
    values = np.array([-1, 0, 0.5, 1, 2, np.nan, np.inf])
    assert Colours(0, 1, "s").levels(values).tolist() == [0, 0, 5, 10, 10, -1, 10]
    assert Colours(1, 100, "s", logarithmic=True).levels(np.array([0, 1, 10, 100])).tolist() == [0, 0, 5, 10]
    assert Colours(-1.7e308, 1.7e308, "d").levels(np.array([0.0])).tolist() == [5]


def test_choice_of_colours() -> None:
    assert colours_of(np.array([-1.0, 0.5, 1.0])).ramp == "d"
    assert colours_of(np.array([0.5, 1.0])).ramp == "s"
    assert colours_of(np.full(5, 7.0)) == Colours(6.5, 7.5, "s")
    assert colours_of(np.full(5, np.nan)) == Colours(0, 1, "s")


# --- pictures ---


def test_cells_cover_what_they_show() -> None:
    levels = np.random.default_rng(0).integers(-1, LEVELS, (9, 13))
    levels[4] = 3
    drawn = np.full(levels.shape, -1)
    for path in ElementTree.fromstring(cells(levels, 0, 0, 13, 9, "s")):
        for x, y, width, back in re.findall(r"M(\d+) (\d+)h(\d+)v1H(\d+)z", path.attrib["d"]):
            assert x == back
            drawn[int(y), int(x) : int(x) + int(width)] = int(path.attrib["class"][1:])
    assert (drawn == levels).all()


def every_picture() -> list[Markup]:
    """Return one picture of each kind, of usual and of extreme numbers."""
    weights = WeightHistogram()
    weights.add(np.random.default_rng(0).standard_normal(1000).astype("f4"), "f32")
    rows = [(float(layer), [0.1, 1, 10, 100, 1e6]) for layer in range(3)]
    axes = {"rows": [(0.5, "0")], "columns": [(0, "0")], "below": "channel"}
    extreme = np.array([[np.nan, np.inf, -np.inf], [1.7e308, -1.7e308, 5e-324]])
    return [
        heat_map(extreme, colours_of(extreme), "t", "d", **axes),
        heat_map(np.full((2, 2), np.nan), Colours(0, 1, "s"), "t", "d", **axes),
        histogram(weights.counts(np.linspace(-3, 3, 20)), 3, "t", "d"),
        histogram(np.zeros(5), 1e-300, "t", "d"),
        band(rows, 3, "t", "d", "tokens"),
        band([(0.0, [2, 2, 2, 2, 2])], 1, "t", "d", "tokens"),
        layer_line({0: 1e308, 5: 0.0}, 6, 1.7e308, "t", "d"),
        layer_line({0: 0.5}, 1, 1, "t", "d"),
        bar(0.3),
        bar(math.inf),
    ]


@pytest.mark.parametrize("index", range(len(every_picture())))
def test_pictures_are_finite(index: int) -> None:
    svg = every_picture()[index]
    assert not re.search(r"\b(nan|inf)\b", svg)
    root = ElementTree.fromstring(svg)
    if root.find("title") is not None:
        ids = {child.attrib["id"] for child in root if "id" in child.attrib}
        assert set(root.attrib["aria-labelledby"].split()) == ids


def test_a_picture_that_stands_alone() -> None:
    text = standalone(picture(10, 20, "a < b", "c & d", Markup('<path class="mark" d="M0 0"/>')), 2.5)
    root = ElementTree.fromstring(text)
    assert (root.tag, root.attrib["width"]) == ("{http://www.w3.org/2000/svg}svg", "25")
    assert "prefers-color-scheme:dark" in text
    assert [child.tag.rpartition("}")[2] for child in root] == ["title", "desc", "style", "rect", "path"]


class Balance(html.parser.HTMLParser):
    """Checks that elements are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page() -> None:
    table = Table(("name", "n"), frozenset({"n"})).render("Things", [("<a>", "1")], "caption")
    text = page("<title>", "lead", [table, None], "footer")
    balance = Balance()
    balance.feed(text)
    assert balance.open == []
    assert '<th scope="row">&lt;a&gt;</th><td class="n">1</td>' in text
    assert '<th scope="col" class="n">n</th>' in text
    assert "default-src &#x27;none&#x27;; style-src &#x27;sha256-" in text
    assert text.count("<style>") == 1
    assert not re.search(r"https?:|url\(|@import|<script| style=", text)
