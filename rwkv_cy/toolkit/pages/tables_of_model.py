"""Tables of a model's page: sizes by group and type, memory, the tensors, metadata."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rwkv_cy.records import dataclass, field
from rwkv_cy.tensors.statistics import TensorStatistics
from rwkv_cy.toolkit.inspect import FileReport, TensorReport
from rwkv_cy.toolkit.pages.charts import bar
from rwkv_cy.toolkit.pages.markup import Child, Markup, element, escaped
from rwkv_cy.toolkit.pages.numbers import count, number, percent, plural, shape_text
from rwkv_cy.toolkit.pages.skeleton import Table, details, section, tensor_name
from rwkv_cy.toolkit.survey import Survey
from rwkv_cy.units import byte_size

__all__ = ["metadata", "sizes", "tensors"]

#: Rows of the tables of names, of single tensors and of metadata: further ones are counted.
_MOST_NAMES, _MOST_TENSORS, _MOST_ENTRIES = 200, 400, 40
#: Values of metadata are cut.
_LONGEST_VALUE = 400


def sizes(report: FileReport, survey: Survey) -> Markup:
    """Return the section of sizes by group, by type, and in memory."""
    total = max(sum(group.nbytes for group in survey.groups.values()), 1)
    header = ("group", "types", "tensors", "parameters", "in the file", "share", "")
    table = Table(header, frozenset(header[2:6]), frozenset({""}), frozenset(header[1:4]))
    by_size = sorted(survey.groups.items(), key=lambda item: -item[1].nbytes)
    groups = table.render(
        "Sizes by group",
        [
            (
                name,
                _some(sorted(group.dtypes)),
                f"{group.tensors:,}",
                count(group.parameters),
                byte_size(group.nbytes),
                percent(group.nbytes / total),
                bar(group.nbytes / total),
            )
            for name, group in by_size
        ],
    )
    return section("Sizes", groups, element("div", _types(report, total), _expected(report), class_="pair"))


def _types(report: FileReport, total: int) -> Markup:
    """Return the table of types in the file."""
    found: dict[str, list[TensorReport]] = {}
    for tensor in report.tensors:
        found.setdefault(tensor.dtype, []).append(tensor)
    rows: list[tuple[int, Sequence[Child]]] = []
    for dtype, group in found.items():
        nbytes = sum(tensor.nbytes for tensor in group)
        numbers = sum(_size(tensor.shape) for tensor in group)
        bits = f"{8 * nbytes / numbers:.2f}" if numbers else "\N{EN DASH}"
        share = nbytes / total
        rows.append((nbytes, (dtype, count(numbers), bits, byte_size(nbytes), percent(share), bar(share))))
    header = ("type", "numbers", "bits each", "in the file", "share", "")
    table = Table(header, frozenset(header[1:5]), frozenset({""}), frozenset(header[1:3]))
    return table.render("Sizes by type", [row for _, row in sorted(rows, key=lambda item: -item[0])])


def _expected(report: FileReport) -> Markup | None:
    """Return the table of memory and speed by precision."""
    if not report.expected:
        return None
    most = max(one.memory_bytes for one in report.expected)
    header = ("loaded as", "in memory", "", "tokens a second")
    rows = [
        (
            one.dtype or "as it is",
            byte_size(one.memory_bytes),
            bar(one.memory_bytes / most, "second"),
            "does not fit" if one.fits is False else number(one.tokens_per_second),
        )
        for one in report.expected
    ]
    threads = plural(report.machine.threads, "thread")
    text = f"Speed: the most that decode can reach with {threads} of the machine that made this page."
    table = Table(header, frozenset({header[1], header[3]}), frozenset({""}))
    return element("div", table.render("Memory and speed by precision", rows), element("p", text, class_="aside"))


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


@dataclass
class _Member:
    """The tensors of one name within the layers."""

    tensors: list[TensorReport] = field(default_factory=list)
    statistics: list[TensorStatistics] = field(default_factory=list)


def tensors(report: FileReport, survey: Survey) -> Markup:
    """Return the section of tensors: by name within the layers, and each of them on demand."""
    members: dict[str, _Member] = {}
    for tensor in report.tensors:
        place = survey.places[tensor.name]
        name = place.member if place.layer is None else f"blocks.*.{place.member}"
        member = members.setdefault(name, _Member())
        member.tensors.append(tensor)
        member.statistics.append(survey.statistics[tensor.name])
    header = ("name", "tensors", "shape", "type", "in the file", "least", "largest", "mean", "std. dev.", "NaN, Inf")
    optional = frozenset({"tensors", "type", "in the file"})
    table = Table(header, frozenset({"tensors", *header[4:]}), optional=optional)
    shown = [_member_row(name, member) for name, member in list(members.items())[:_MOST_NAMES]]
    summary = table.render("Tensors by name", shown, _rest(len(members), _MOST_NAMES, "name"))
    single = Table((header[0], *header[2:]), frozenset(header[4:]), optional=optional)
    rows = (_tensor_row(tensor, survey.statistics[tensor.name]) for tensor in report.tensors[:_MOST_TENSORS])
    every = single.render("All tensors", rows, _rest(len(report.tensors), _MOST_TENSORS, "tensor"))
    return section("Tensors", summary, details(f"Each of the {len(report.tensors):,} tensors", every))


def _rest(total: int, most: int, noun: str) -> str | None:
    """Return the line that says what a table leaves out."""
    if total <= most:
        return None
    return f"The first {plural(most, noun)} of {total:,}; rwkv-cy inspect --json lists all tensors."


def _member_row(name: str, member: _Member) -> Sequence[Child]:
    shapes = dict.fromkeys(shape_text(tensor.shape) for tensor in member.tensors)
    dtypes = dict.fromkeys(tensor.dtype for tensor in member.tensors)
    return (
        tensor_name(name),
        f"{len(member.tensors):,}",
        _some(shapes),
        _some(dtypes),
        byte_size(sum(tensor.nbytes for tensor in member.tensors)),
        *_numbers(member.statistics, [_size(tensor.shape) for tensor in member.tensors]),
    )


def _tensor_row(tensor: TensorReport, statistics: TensorStatistics) -> Sequence[Child]:
    numbers = _numbers([statistics], [_size(tensor.shape)])
    name = tensor_name(tensor.name)
    return (name, shape_text(tensor.shape), tensor.dtype, byte_size(tensor.nbytes), *numbers)


def _numbers(found: Sequence[TensorStatistics], weights: Sequence[int]) -> tuple[str, ...]:
    """Return least, largest, mean and deviation of all numbers of some tensors, and the count of NaN and Inf."""
    nonfinite = sum(one.nan + one.inf for one in found)
    low = min((one.minimum for one in found if one.minimum is not None), default=None)
    high = max((one.maximum for one in found if one.maximum is not None), default=None)
    known = [
        (one.mean, one.std, weight - one.nan - one.inf)
        for one, weight in zip(found, weights, strict=True)
        if one.mean is not None and one.std is not None
    ]
    mean = deviation = None
    total = sum(weight for *_, weight in known)
    if total:
        mean = sum(one * (weight / total) for one, _, weight in known)
        # Variance of the whole: mean of the variances, and variance of the means.
        spread = sum((std**2 + (one - mean) ** 2) * (weight / total) for one, std, weight in known)
        deviation = spread**0.5
    return (*(number(value, fixed=True) for value in (low, high, mean, deviation)), f"{nonfinite:,}")


def _some(texts: Iterable[str]) -> str:
    """Return some texts in one line."""
    found = list(texts)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def metadata(report: FileReport) -> Markup | None:
    """Return the section of the file's origin and metadata."""
    source = {f"source {name}": value for name, value in report.source.items()}
    size = source.get("source size", "")
    if size.isdecimal() and len(size) < 20:
        source["source size"] = byte_size(int(size))
    entries = source | report.metadata
    own = {"created by": report.created_by, "fingerprint": report.fingerprint}
    known = {name: value for name, value in own.items() if value is not None} | entries
    if not known:
        return None
    rows = [
        (element("code", name), escaped(value, _LONGEST_VALUE)) for name, value in list(known.items())[:_MOST_ENTRIES]
    ]
    rest = len(known) - _MOST_ENTRIES
    caption = f"The first {_MOST_ENTRIES} entries of {len(known):,}." if rest > 0 else None
    return section("Metadata", Table(("name", "value"), prose=frozenset({"value"})).render("Metadata", rows, caption))
