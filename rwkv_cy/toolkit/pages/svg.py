"""Primitives of pictures: the picture with its title and description, text, lines, axes, paths of cells."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from rwkv_cy.toolkit.pages.markup import Child, Markup, element, escaped
from rwkv_cy.toolkit.pages.numbers import Scale, number
from rwkv_cy.toolkit.pages.style import LEVELS, PICTURE_STYLE

__all__ = [
    "axis_x",
    "axis_y",
    "cells",
    "coordinate",
    "figure",
    "label",
    "line",
    "picture",
    "polyline",
    "rect",
    "standalone",
]


def coordinate(value: float) -> str:
    """Return a coordinate with a precision of a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def picture(width: float, height: float, title: str, description: str, *children: Child) -> Markup:
    """Return a picture.

    Parameters
    ----------
    width, height : float
        Of its coordinates; on a page it is as wide as its column.
    title, description : str
        What it shows, for screen readers.
    *children : Markup
    """
    key = "p" + hashlib.sha256(f"{title}\n{description}".encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return element(
        "svg",
        element("title", title, id=f"{key}t"),
        element("desc", escaped(description, 2000), id=f"{key}d"),
        *children,
        viewBox=f"0 0 {coordinate(width)} {coordinate(height)}",
        role="img",
        aria_labelledby=f"{key}t {key}d",
    )


def standalone(svg: Markup, scale: float = 1.0) -> str:
    """Return a picture as the text of an SVG file, on paper of its own, light or dark; `scale` is its size."""
    opening, _, rest = svg.partition(">")
    width = round(scale * float(opening.split('viewBox="0 0 ')[1].split()[0]))
    paper = f'<style>{PICTURE_STYLE}</style><rect class="paper" width="100%" height="100%"/>'
    head, marker, body = rest.partition("</desc>")
    return f'{opening} xmlns="http://www.w3.org/2000/svg" width="{width}">{head}{marker}{paper}{body}\n'


def figure(title: str, caption: Child, svg: Child, class_: str | None = None) -> Markup:
    """Return a picture with its heading and caption."""
    heading = element("h3", title)
    return element("figure", element("figcaption", heading, caption), svg, class_=class_)


def label(x: float, y: float, text: str, anchor: str = "start", class_: str | None = None) -> Markup:
    """Return a text; `anchor` is ``"start"``, ``"middle"`` or ``"end"``."""
    place = {"x": coordinate(x), "y": coordinate(y)}
    return element("text", text, **place, text_anchor=None if anchor == "start" else anchor, class_=class_)


def rect(x: float, y: float, width: float, height: float, class_: str) -> Markup:
    """Return a rectangle."""
    place = {"x": x, "y": y, "width": width, "height": height}
    return element("rect", **{name: coordinate(value) for name, value in place.items()}, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Return a straight line."""
    path = f"M{coordinate(x1)} {coordinate(y1)}L{coordinate(x2)} {coordinate(y2)}"
    return element("path", d=path, class_=class_)


def polyline(points: Iterable[tuple[float, float]], class_: str, close: bool = False) -> Markup:
    """Return a line through points, or the area within it."""
    path = "L".join(f"{coordinate(x)} {coordinate(y)}" for x, y in points)
    return element("path", d=f"M{path}{'Z' if close else ''}", class_=class_)


def axis_x(scale: Scale, y: float, names: Sequence[tuple[float, str]] | None = None) -> Markup:
    """Return a horizontal axis with ticks.

    Parameters
    ----------
    scale : Scale
    y : float
        Where the axis is.
    names : sequence of (float, str), optional
        Positions on the scale and their labels; the scale's own ticks by default.
    """
    ticks = [(tick, number(tick)) for tick in scale.ticks()] if names is None else names
    parts = [line(scale.start, y, scale.end, y, "axis")]
    for value, text in ticks:
        x = scale(value)
        edge = 12.0
        anchor = "start" if x < edge else "end" if scale.end - x < edge else "middle"
        parts.append(line(x, y, x, y + 3, "axis"))
        parts.append(label(x, y + 14, text, anchor))
    return element("g", *parts)


def axis_y(scale: Scale, x: float, right: float, most: int = 4) -> Markup:
    """Return the ticks of a vertical scale, left of `x`, with lines of the grid to `right`."""
    parts = []
    for tick in scale.ticks(most):
        y = scale(tick)
        parts.append(line(x, y, right, y, "grid"))
        parts.append(label(x - 5, y + 3.5, number(tick), "end"))
    return element("g", *parts)


def cells(levels: npt.NDArray[np.int64], x: float, y: float, width: float, height: float, ramp: str) -> Markup:
    """Return the cells of a heat map, one path for each colour.

    Parameters
    ----------
    levels : numpy.ndarray
        Shape (rows, columns), from 0 to LEVELS - 1; cells below 0 are left empty.
    x, y, width, height : float
        Where it is.
    ramp : {"s", "d"}
        Sequential or diverging colours.
    """
    rows, columns = levels.shape
    runs: dict[int, list[str]] = {}
    for row in range(rows):
        ends = np.flatnonzero(np.diff(levels[row], append=-2)) + 1
        start = 0
        for end in ends.tolist():
            runs.setdefault(int(levels[row, start]), []).append(f"M{start} {row}h{end - start}v1H{start}z")
            start = end
    paths = (element("path", d="".join(runs[i]), class_=f"{ramp}{i}") for i in range(LEVELS) if i in runs)
    place = f"translate({coordinate(x)} {coordinate(y)}) scale({width / columns:.5g} {height / rows:.5g})"
    return element("g", *paths, transform=place, shape_rendering="crispEdges")
