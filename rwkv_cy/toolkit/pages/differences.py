"""Differences of two models by layer: their histograms, and where the tensors are that differ most."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rwkv_cy.tensors.difference import EXPONENTS
from rwkv_cy.toolkit.diff import DiffReport, TensorDifference
from rwkv_cy.toolkit.pages.axes import NAMES, layer_labels, name_labels
from rwkv_cy.toolkit.pages.charts import Colours, heat_map
from rwkv_cy.toolkit.pages.markup import Markup, element
from rwkv_cy.toolkit.pages.numbers import percent, plural, power_of_ten
from rwkv_cy.toolkit.pages.skeleton import section
from rwkv_cy.toolkit.pages.svg import figure
from rwkv_cy.toolkit.places import Place

__all__ = ["LayerDifferences", "differences_by_layer", "differences_picture", "members_picture"]

Array = npt.NDArray[np.float64]

#: Names in the heat map of names; further ones are counted.
_MOST_MEMBERS = 40
#: Rows of a histogram, and columns of the heat map of names: neighbouring layers share them.
_ROWS, _COLUMNS = 64, 96
#: float64 numbers of the exponent e are from 2**(e - _BIAS) on.
_BIAS = 1023
#: Powers of two that a histogram of differences shows at most, down from the largest.
_OCTAVES = 48


class LayerDifferences:
    """Histograms of absolute differences by powers of two, for each layer; of many layers, for neighbours together.

    Parameters
    ----------
    where : mapping of str to Place
        Of each tensor.
    """

    def __init__(self, where: Mapping[str, Place]) -> None:
        self._where = where
        self.layers = 1 + max((place.layer for place in where.values() if place.layer is not None), default=-1)
        self.counts = np.zeros((min(self.layers, _ROWS), EXPONENTS), np.int64)
        self._outside = np.zeros(EXPONENTS, np.int64)

    def counters(self, name: str) -> npt.NDArray[np.int64]:
        """Return the counters that the differences of a tensor are added to."""
        layer = self._where[name].layer
        return self._outside if layer is None else self.counts[layer * self.counts.shape[0] // self.layers]


def differences_by_layer(report: DiffReport, by_layer: LayerDifferences, where: Mapping[str, Place]) -> Markup | None:
    """Return the section of differences by layer: of each name, and the histogram of all."""
    if not by_layer.layers:
        return None
    pictures = []
    members, differences = members_picture(report, by_layer.layers, where), differences_picture(by_layer)
    if members is not None:
        names = {
            where[one.name].member for one in report.tensors if where[one.name].layer is not None and _differs(one)
        }
        rest = f"; {plural(len(names) - _MOST_MEMBERS, 'name')} more left out" if len(names) > _MOST_MEMBERS else ""
        text = f"by name and layer, the most different first{rest}"
        pictures.append(figure("RMS relative difference", text, members))
    if differences is not None:
        equal = by_layer.counts[:, 0] / np.maximum(by_layer.counts.sum(1), 1)
        low, high = percent(float(equal.min())), percent(float(equal.max()))
        text = f"share of a layer's numbers by the size of the difference; equal are {low} to {high} of them"
        pictures.append(figure("Histogram of differences", text, differences))
    return section("By layer", element("div", *pictures, class_="pictures")) if pictures else None


def members_picture(report: DiffReport, layers: int, where: Mapping[str, Place]) -> Markup | None:
    """Return the heat map of the relative difference of each name in each layer; None if no layer has any."""
    columns = min(layers, _COLUMNS)
    cells: dict[str, Array] = {}
    for tensor in report.tensors:  # the most different first
        place, difference = where[tensor.name], tensor.difference
        if place.layer is None or difference is None or not math.isfinite(difference.relative):
            continue
        if place.member not in cells and not (len(cells) < _MOST_MEMBERS and _differs(tensor)):
            continue
        row = cells.setdefault(place.member, np.full(columns, np.nan))
        column = place.layer * columns // layers
        row[column] = np.fmax(row[column], difference.relative)
    if not cells:
        return None
    values = np.array(list(cells.values()))
    return heat_map(
        values,
        _difference_colours(values),
        "Relative difference by name and layer",
        f"Root mean square of the differences relative to that of the numbers, for {plural(len(cells), 'name')} from "
        f"top to bottom and {plural(layers, 'layer')} from left to right.",
        rows=name_labels(cells),
        columns=layer_labels(layers, columns),
        below="layer",
        left=NAMES,
        beside="",
    )


def _differs(tensor: TensorDifference) -> bool:
    """Tell whether a tensor has differences that can be drawn."""
    found = tensor.difference
    return found is not None and found.differing > 0 and math.isfinite(found.relative)


def _difference_colours(values: Array) -> Colours:
    """Return colours from the least difference to the largest; logarithmic where they span a power of ten."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return Colours(0.0, 1.0, "s")
    low, high = float(positive.min()), float(positive.max())
    if high / 10 > low:
        return Colours(max(low, high * 1e-6), high, "s", logarithmic=True)
    return Colours(low if high > low else 0.0, high, "s")


def differences_picture(by_layer: LayerDifferences) -> Markup | None:
    """Return the histograms of the absolute differences as a heat map, a row for each layer; None without any."""
    used = np.flatnonzero(by_layer.counts[:, 1:].sum(0)) + 1
    if not used.size:
        return None
    last = int(used[-1])
    first = max(int(used[0]), last - _OCTAVES + 1)
    shares = by_layer.counts[:, first : last + 1] / np.maximum(by_layer.counts.sum(1, keepdims=True), 1)
    return heat_map(
        np.where(shares > 0, shares, np.nan),
        Colours(0.0, float(shares.max()), "s"),
        "Histogram of differences by layer",
        f"Absolute differences in powers of two from left to right, for {plural(by_layer.layers, 'layer')} from top to "
        "bottom; colours are shares of the numbers of a layer.",
        rows=layer_labels(by_layer.layers, shares.shape[0]),
        columns=_powers_of_ten(first, last),
        below="absolute difference",
    )


def _powers_of_ten(first: int, last: int) -> list[tuple[float, str]]:
    """Return labels of a histogram over the exponents from `first` to `last`: places of powers of ten."""
    low, high = (first - _BIAS) * math.log10(2), (last + 1 - _BIAS) * math.log10(2)
    powers = range(math.ceil(low), math.floor(high) + 1)
    step = max(1, -(-len(powers) // 6))
    return [(power / math.log10(2) + _BIAS - first, power_of_ten(power)) for power in powers[::step]]
