"""Charts: heat maps by layer, histograms, bands and lines over layers, bars in tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rwkv_cy.records import dataclass
from rwkv_cy.toolkit.pages.markup import Child, Markup, element, join
from rwkv_cy.toolkit.pages.numbers import Scale, number
from rwkv_cy.toolkit.pages.style import LEVELS
from rwkv_cy.toolkit.pages.svg import axis_x, axis_y, cells, label, line, picture, polyline, rect

__all__ = ["Colours", "band", "bar", "colours_of", "heat_map", "histogram", "layer_line", "layer_ticks"]

Array = npt.NDArray[np.float64]

#: Size of a chart and its margins, in the pixels of a narrow column.
WIDTH, LEFT, RIGHT = 340.0, 36.0, 4.0
#: Width of a chart of which many stand side by side.
_SMALL = 260.0
#: Larger numbers are drawn as this one, so that differences do not overflow.
_BOUND = 1e300


@dataclass(frozen=True)
class Colours:
    """What the colours of a heat map mean.

    Attributes
    ----------
    low, high : float
        The numbers of the first and the last colour.
    ramp : {"s", "d"}
        Sequential, or diverging from the middle of the range.
    logarithmic : bool, default False
    """

    low: float
    high: float
    ramp: str
    logarithmic: bool = False

    def levels(self, values: Array) -> npt.NDArray[np.int64]:
        """Return the number of the colour of each value; -1 for NaN."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high = math.log10(low), math.log10(high)
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.log10(values)
        with np.errstate(invalid="ignore", over="ignore"):
            shares = (values / 2 - low / 2) / max(high / 2 - low / 2, 1e-300)
            numbers = np.floor(np.clip(shares, 0, 1) * LEVELS)
        return np.where(np.isnan(shares), -1, np.minimum(np.nan_to_num(numbers), LEVELS - 1)).astype(np.int64)


def colours_of(values: Array) -> Colours:
    """Return colours for numbers: diverging from zero where they have both signs, otherwise from least to largest.

    The extreme hundredth on each side gets the last colour, so that single numbers do not leave the others pale.
    """
    finite = np.clip(values[np.isfinite(values)], -_BOUND, _BOUND)
    if not finite.size:
        return Colours(0.0, 1.0, "s")
    low, high = (float(value) for value in np.quantile(finite, (0.01, 0.99)))
    if low < 0 < high and min(-low, high) > 0.1 * max(-low, high):
        reach = max(-low, high)
        return Colours(-reach, reach, "d")
    if 0 < low < 0.01 * high:
        low = 0.0
    return Colours(low, high, "s") if high > low else Colours(low - 0.5, low + 0.5, "s")


def _legend(colours: Colours, y: float) -> Markup:
    """Return the colours with their numbers, at the right end of a line."""
    swatch, height = 9.0, 8.0
    right = WIDTH - RIGHT
    end = label(right, y + height, number(colours.high), "end")
    start = right - 7.0 * len(number(colours.high)) - 6 - LEVELS * swatch
    boxes = (rect(start + i * swatch, y, swatch, height, f"{colours.ramp}{i}") for i in range(LEVELS))
    group = element("g", *boxes, shape_rendering="crispEdges")
    return join(label(start - 5, y + height, number(colours.low), "end"), group, end)


def heat_map(
    values: Array,
    colours: Colours,
    title: str,
    description: str,
    *,
    rows: Sequence[tuple[float, str]],
    columns: Sequence[tuple[float, str]],
    below: str,
    left: float = LEFT,
    beside: str = "layer",
) -> Markup:
    """Return a picture of numbers as colours.

    Parameters
    ----------
    values : numpy.ndarray
        Shape (rows, columns); NaN leaves a cell empty.
    colours : Colours
    title, description : str
    rows, columns : sequence of (float, str)
        Labels of the axes: places from 0 to the number of rows or columns, and texts.
    below : str
        What the columns are.
    left : float, optional
        Space for the labels of rows.
    beside : str, optional
        What the rows are.
    """
    count = values.shape[0]
    # Rows with a label each are as high as a line of text.
    cell = min(max(132 / count, 13.0 if len(rows) == count else 3.0), 16.0)
    top, height = 18.0, cell * count
    width = WIDTH - left - RIGHT
    across = Scale(0, values.shape[1], left, left + width)
    parts: list[Child] = [
        label(0, 9, beside),
        _legend(colours, 1),
        rect(left, top, width, height, "panel"),
        cells(colours.levels(values), left, top, width, height, colours.ramp),
    ]
    parts += [label(left - 6, top + place * cell + 3.8, text, "end") for place, text in rows]
    parts.append(axis_x(across, top + height + 2, columns))
    parts.append(label(left + width / 2, top + height + 30, below, "middle"))
    return picture(WIDTH, top + height + 34, title, description, *parts)


def histogram(counts: Array, reach: float, title: str, description: str) -> Markup:
    """Return a histogram of numbers from -reach to reach, as an area, in shares of the largest count."""
    height, top = 104.0, 4.0
    across = Scale(-reach, reach, 4, WIDTH - 4)
    up = Scale(0, max(float(counts.max(initial=0.0)), 1e-300), top + height, top)
    step = (across.end - across.start) / len(counts)
    corners: list[tuple[float, float]] = []
    for i, count in enumerate(counts.tolist()):
        x, y = across.start + i * step, up(count)
        corners += [(x, y), (x + step, y)]
    outline = polyline(corners, "thin")
    area = polyline([(across.start, up(0)), *corners, (across.end, up(0))], "wash", close=True)
    middle = line(across(0), top, across(0), top + height, "grid")
    return picture(WIDTH, top + height + 20, title, description, middle, area, outline, axis_x(across, top + height))


def band(rows: Sequence[tuple[float, Sequence[float]]], layers: int, title: str, description: str, unit: str) -> Markup:
    """Return quantiles over layers, on a logarithmic scale: two bands and the median.

    Parameters
    ----------
    rows : sequence of (float, sequence of float)
        Layer, and five quantiles of positive numbers in ascending order.
    layers : int
        Number of layers.
    title, description : str
    unit : str
        Of the numbers.
    """
    top, height = 18.0, 150.0
    low, high = min(values[0] for _, values in rows), max(values[-1] for _, values in rows)
    low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high * 1.0001))
    up = Scale(low, high, top + height, top, logarithmic=True)
    across = layer_scale(layers)
    parts: list[Child] = [label(0, 9, unit), axis_y(up, across.start, across.end)]
    for lower, upper, class_ in ((0, 4, "wash"), (1, 3, "wash2")):
        forth = [(across(layer), up(values[upper])) for layer, values in rows]
        back = [(across(layer), up(values[lower])) for layer, values in reversed(rows)]
        parts.append(polyline([*forth, *back], class_, close=True))
    parts.append(polyline([(across(layer), up(values[2])) for layer, values in rows], "line"))
    parts += _layer_axis(across, layers, top + height)
    return picture(WIDTH, top + height + 34, title, description, *parts)


def layer_line(points: Mapping[float, float], layers: int, high: float, title: str, description: str) -> Markup:
    """Return a number by layer as a line, on a scale from 0 to `high`."""
    top, height = 6.0, 74.0
    up = Scale(0, high, top + height, top)
    across = layer_scale(layers, _SMALL)
    places = [(across(layer), up(value)) for layer, value in sorted(points.items())]
    ends = [places[0], places[-1]]
    dots = (element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="2.4", class_="mark") for x, y in ends)
    parts = [axis_y(up, across.start, across.end, 3), polyline(places, "line"), *dots]
    parts += _layer_axis(across, layers, top + height, named=False)
    return picture(_SMALL, top + height + 20, title, description, *parts)


def layer_scale(layers: int, width: float = WIDTH) -> Scale:
    """Return the horizontal scale of charts over layers."""
    return Scale(0, max(layers - 1, 1), LEFT + 6, width - 8)


def layer_ticks(layers: int, most: int = 6) -> list[int]:
    """Return the layers to label."""
    step = max(1, -(-(layers - 1) // (most - 1)))
    round_step = next(nice for nice in _steps() if nice >= step)
    return list(range(0, layers, round_step))


def _steps() -> Sequence[int]:
    return [factor * 10**power for power in range(7) for factor in (1, 2, 4, 5)]


def _layer_axis(across: Scale, layers: int, y: float, *, named: bool = True) -> list[Markup]:
    ticks = [(float(layer), str(layer)) for layer in layer_ticks(layers)]
    parts = [axis_x(across, y, ticks)]
    if named:
        parts.append(label((across.start + across.end) / 2, y + 29, "layer", "middle"))
    return parts


def bar(share: float, class_: str = "mark") -> Markup:
    """Return the bar of a table's cell: a share of its width. The cell's row has the number too."""
    width = f"{100 * min(max(share, 0.0), 1.0):.2f}"
    body = element("rect", width=width, height="10", class_=class_)
    track = element("rect", width="100", height="10", class_="panel")
    return element("svg", track, body, viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true")
