"""The page of ``diff --html``: how two model files differ, the most different tensors first, and by layer."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

import rwkv_cy
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.tensors.difference import EXPONENTS
from rwkv_cy.toolkit.diff import DiffReport, TensorDifference, compare
from rwkv_cy.toolkit.pages.axes import NAMES, layer_labels, name_labels
from rwkv_cy.toolkit.pages.charts import Colours, bar, heat_map
from rwkv_cy.toolkit.pages.markup import Child, Markup, element, escaped, join
from rwkv_cy.toolkit.pages.numbers import number, percent, plural, power_of_ten, shape_text
from rwkv_cy.toolkit.pages.skeleton import Table, facts, notes, page, section
from rwkv_cy.toolkit.pages.svg import figure
from rwkv_cy.toolkit.pages.writing import write_page
from rwkv_cy.toolkit.places import Place, places

__all__ = ["LayerDifferences", "diff_page", "differences_picture", "members_picture", "write_diff_page"]

Array = npt.NDArray[np.float64]

#: Rows of the tables and of the heat maps; further ones are counted.
_MOST_TENSORS, _MOST_NAMES, _MOST_MEMBERS = 200, 40, 40
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


def write_diff_page(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    tensors: str = "*",
    tolerance: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> DiffReport:
    """Compare two model files as :func:`rwkv_cy.diff` does, and describe the result in one self-contained HTML page.

    The page is written complete or not at all.

    Parameters
    ----------
    first, second : path
        Model files, or checkpoints of any supported format.
    target : path
        The page.
    overwrite : bool, default False
        Whether `target` may be replaced, if it is such a page.
    tensors, tolerance, progress
        As for :func:`rwkv_cy.diff`.

    Returns
    -------
    DiffReport

    Raises
    ------
    ConfigError
        If `tolerance` is negative or NaN, or no tensor matches the pattern.
    FormatError
        If a file is damaged, or its format is not supported.
    StorageError
        If the operating system refuses access, or the target exists and may not be replaced.
    """
    reports = []
    with Checkpoint.open(first) as a, Checkpoint.open(second) as b:
        where = places(b.shapes | a.shapes, ())
        by_layer = LayerDifferences(where)

        def make() -> str:
            options = {"tensors": tensors, "tolerance": tolerance}
            report = compare(a, b, **options, progress=progress, exponents=by_layer.counters)  # type: ignore[arg-type]
            reports.append(report)
            return diff_page(report, by_layer, where)

        sources = [file.path for checkpoint in (a, b) for file in checkpoint.source.files]
        write_page(target, sources, make, overwrite=overwrite)
    return reports[0]


def diff_page(report: DiffReport, by_layer: LayerDifferences, where: Mapping[str, Place]) -> str:
    """Return the page of a comparison.

    Parameters
    ----------
    report : DiffReport
    by_layer : LayerDifferences
        Of the same files.
    where : mapping of str to Place
        Of the tensors of both files.
    """
    changed = [tensor for tensor in report.tensors if not tensor.same(0)]
    sections = [
        _result(report),
        _layers(report, by_layer, where) if changed else None,
        _table(changed),
        _names(report),
    ]
    lead = join(*(_file(report, side) for side in (0, 1)))
    a, b = (path.name or str(path) for path in report.paths)
    footer = f"Made by rwkv-cy {rwkv_cy.__version__}; tensors are compared decoded, in float64."
    return page(f"{a} and {b}", lead, sections, footer, _facts(report, changed))


def _file(report: DiffReport, side: int) -> Markup:
    architecture = report.architectures[side] or "unknown architecture"
    name = element("code", str(report.paths[side]))
    return join(element("br") if side else None, f"{'AB'[side]}: ", name, f" ({report.formats[side]}, {architecture})")


def _facts(report: DiffReport, changed: Sequence[TensorDifference]) -> Markup:
    finite = [one.difference for one in changed if one.difference is not None and not one.difference.nonfinite]
    size = sum(one.difference.size for one in report.tensors if one.difference is not None)
    differing = sum(one.difference.differing for one in report.tensors if one.difference is not None)
    entries: dict[str, Child | tuple[str, str]] = {
        "result": "the same" if report.same else "different",
        "tensors in both": (f"{len(report.tensors):,}", f"{len(changed):,} of them differ"),
        "numbers that differ": (percent(differing / size) if size else "none", f"of {size:,}"),
        "largest difference": number(max((one.largest for one in finite), default=0.0)),
        "largest RMS difference": (number(max((one.relative for one in finite), default=0.0)), "relative, of a tensor"),
        "tokenizer": (
            "the same" if report.same_tokenizer else "different",
            " / ".join(dict.fromkeys(report.tokenizers)),
        ),
    }
    if report.tolerance:
        entries["tolerance"] = (number(report.tolerance), "relative to the largest number of a tensor")
    return facts(entries)


def _result(report: DiffReport) -> Markup:
    alarms: list[Child] = [escaped(problem, 3000) for problem in report.problems]
    reshaped = [one.name for one in report.tensors if one.difference is None]
    broken = [one.name for one in report.tensors if one.difference is not None and one.difference.nonfinite]
    if reshaped:
        alarms.append(join(f"{plural(len(reshaped), 'tensor')} of different shapes: ", _listed(reshaped, 6)))
    if broken:
        alarms.append(
            join(f"{plural(len(broken), 'tensor')} NaN or infinite in one of the files alone: ", _listed(broken, 6))
        )
    others: list[Child] = [f"{name}: {one} in A, {other} in B" for name, (one, other) in report.config.items()]
    for letter, names in zip("AB", report.only_in, strict=True):
        if names:
            others.append(f"{plural(len(names), 'tensor')} in {letter} alone, listed at the end.")
    good: list[Child] = []
    if not alarms and not others:
        good.append("Both files have the same tensors in the same shapes, and the same dimensions.")
    parts = (notes(lines, kind) for lines, kind in ((alarms, "alarm"), (others, ""), (good, "good")) if lines)
    return section("Files", *parts)


def _listed(names: Iterable[str], most: int) -> Markup:
    every = list(names)
    shown: list[Child] = []
    for name in every[:most]:
        shown += [", " if shown else None, element("code", name)]
    return join(*shown, f" and {len(every) - most:,} more" if len(every) > most else None)


def _names(report: DiffReport) -> Markup | None:
    """Return the section of the tensors that one file has alone."""
    if not any(report.only_in):
        return None
    lines = [
        element("p", element("strong", f"Only in {letter}: "), _listed(names, _MOST_NAMES))
        for letter, names in zip("AB", report.only_in, strict=True)
        if names
    ]
    return section("Tensors of one file alone", *lines)


def _table(changed: Sequence[TensorDifference]) -> Markup:
    if not changed:
        return section("Tensors", element("p", "All numbers of all tensors are equal."))
    finite = (one.difference.relative for one in changed if one.difference is not None)
    most = max((value for value in finite if math.isfinite(value)), default=0.0)
    header = ("tensor", "shape", "types", "differ", "largest", "mean", "largest rel.", "RMS rel.", "")
    table = Table(header, frozenset(header[3:8]), frozenset(header[8:]), frozenset(header[1:6]))
    rest = len(changed) - _MOST_TENSORS
    caption = f"The first {_MOST_TENSORS} of {len(changed):,}; rwkv-cy diff --json lists all." if rest > 0 else None
    rows = (_row(tensor, most) for tensor in changed[:_MOST_TENSORS])
    text = (
        "The most different first. RMS relative is the root mean square of the differences, relative to that of the "
        "numbers; largest relative is the largest difference, relative to the largest number of the tensor."
    )
    return section("Tensors that differ", element("p", text), table.render("Tensors that differ", rows, caption))


def _row(tensor: TensorDifference, most: float) -> Sequence[Child]:
    one, other = map(shape_text, tensor.shapes)
    types = " / ".join(dict.fromkeys(tensor.dtypes))
    found = tensor.difference
    name = element("code", tensor.name)
    if found is None:
        return (name, f"{one} / {other}", types, *["\N{EN DASH}"] * 5, None)
    differ = percent(found.differing / found.size)
    if found.nonfinite:
        return (name, one, types, differ, "NaN or Inf", *["\N{EN DASH}"] * 3, bar(1.0, "second"))
    measures = (found.largest, found.mean, found.largest_relative, found.relative)
    return (
        name,
        one,
        types,
        differ,
        *(number(value, fixed=True) for value in measures),
        bar(found.relative / most if most else 0.0),
    )


def _layers(report: DiffReport, by_layer: LayerDifferences, where: Mapping[str, Place]) -> Markup | None:
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
