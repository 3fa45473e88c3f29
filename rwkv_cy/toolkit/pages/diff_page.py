"""The page of ``diff --html``: how two model files differ, the most different tensors first, and by layer."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence

import rwkv_cy
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.toolkit.diff import DiffReport, TensorDifference, compare
from rwkv_cy.toolkit.pages.charts import bar
from rwkv_cy.toolkit.pages.differences import LayerDifferences, differences_by_layer
from rwkv_cy.toolkit.pages.markup import Child, Markup, element, escaped, join
from rwkv_cy.toolkit.pages.numbers import number, percent, plural, shape_text
from rwkv_cy.toolkit.pages.skeleton import Table, facts, listed, notes, page, section, tensor_name
from rwkv_cy.toolkit.pages.writing import write_page
from rwkv_cy.toolkit.places import Place, places

__all__ = ["diff_page", "write_diff_page"]

#: Rows of the table, and names in a list; further ones are counted. Remarks name fewer.
_MOST_TENSORS, _MOST_NAMES, _NAMED = 200, 40, 6
#: Problems name many tensors at once: so many characters are shown.
_LONGEST = 3000


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
        differences_by_layer(report, by_layer, where) if changed else None,
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
    alarms: list[Child] = [escaped(problem, _LONGEST) for problem in report.problems]
    reshaped = [one.name for one in report.tensors if one.difference is None]
    broken = [one.name for one in report.tensors if one.difference is not None and one.difference.nonfinite]
    if reshaped:
        alarms.append(join(f"{plural(len(reshaped), 'tensor')} of different shapes: ", listed(reshaped, _NAMED)))
    if broken:
        alarms.append(
            join(f"{plural(len(broken), 'tensor')} NaN or infinite in one of the files alone: ", listed(broken, _NAMED))
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


def _names(report: DiffReport) -> Markup | None:
    """Return the section of the tensors that one file has alone."""
    if not any(report.only_in):
        return None
    lines = [
        element("p", element("strong", f"Only in {letter}: "), listed(names, _MOST_NAMES))
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
    name = tensor_name(tensor.name)
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
