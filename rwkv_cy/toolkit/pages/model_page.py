"""The page of ``inspect --html``: what a model file is, its problems, its sizes, and pictures of its numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

import rwkv_cy
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.records import replace
from rwkv_cy.toolkit.inspect import FileReport, inspect
from rwkv_cy.toolkit.pages import numbers_of_model, tables_of_model
from rwkv_cy.toolkit.pages.markup import Child, Markup, escaped, join
from rwkv_cy.toolkit.pages.numbers import count, plural
from rwkv_cy.toolkit.pages.skeleton import facts, listed, notes, page, section
from rwkv_cy.toolkit.pages.writing import write_page
from rwkv_cy.toolkit.survey import Survey, survey
from rwkv_cy.units import byte_size

__all__ = ["model_page", "write_model_page"]

#: A remark names so many tensors.
_NAMED = 6
#: Problems and warnings name many tensors at once: so many characters are shown.
_LONGEST = 3000
#: float32 numbers below it are subnormal.
_LEAST_NORMAL = "2\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT ONE}\N{SUPERSCRIPT TWO}\N{SUPERSCRIPT SIX}"
#: Kinds of tensors that a trained model does not have as zeros.
_WEIGHTS = ("matrix", "head", "embedding", "table")


def write_model_page(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    speed: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> FileReport:
    """Describe the model file `path` with all of its numbers in one self-contained HTML page.

    The file is read tensor by tensor, in bounded memory. The page is written complete or not at all.

    Parameters
    ----------
    path : path
        A model file, or a checkpoint of any supported format.
    target : path
        The page.
    overwrite : bool, default False
        Whether `target` may be replaced, if it is such a page.
    speed : bool, default True
        Whether to estimate the speed on this machine.
    progress : callable, optional
        Called with the bytes done and the bytes of all tensors.

    Returns
    -------
    FileReport
        As :func:`rwkv_cy.inspect` returns it with ``stats=True``.

    Raises
    ------
    FormatError
        If the file is damaged, or its format is not supported.
    StorageError
        If the operating system refuses access, or the target exists and may not be replaced.
    """
    report = inspect(path, speed=speed)
    reports = []
    with Checkpoint.open(path) as checkpoint:

        def make() -> str:
            found = survey(checkpoint, progress)
            tensors = (replace(one, statistics=found.statistics[one.name]) for one in report.tensors)
            reports.append(replace(report, tensors=tuple(tensors)))
            return model_page(reports[0], found)

        write_page(target, [file.path for file in checkpoint.source.files], make, overwrite=overwrite)
    return reports[0]


def model_page(report: FileReport, found: Survey) -> str:
    """Return the page of a file.

    Parameters
    ----------
    report : FileReport
        With the statistics of its tensors.
    found : Survey
        Of the same file.
    """
    sections = [
        _remarks(report, found),
        tables_of_model.sizes(report, found),
        numbers_of_model.decay(found),
        *numbers_of_model.curves(found),
        numbers_of_model.histograms(found),
        numbers_of_model.sizes(found),
        numbers_of_model.ranks(found),
        tables_of_model.tensors(report, found),
        tables_of_model.metadata(report),
    ]
    footer = f"Made by rwkv-cy {rwkv_cy.__version__}; all numbers are those of the decoded tensors."
    return page(report.path.name or str(report.path), _lead(report), sections, footer, _facts(report))


def _lead(report: FileReport) -> str:
    what = report.architecture or "Unknown version"
    return f"{what}, {count(report.num_parameters)} parameters, {report.format}"


def _facts(report: FileReport) -> Markup:
    config = report.config
    entries: dict[str, Child | tuple[str, str]] = {
        "architecture": report.architecture or "unknown",
        "parameters": (count(report.num_parameters), f"{report.num_parameters:,}"),
    }
    if config is not None:
        entries["layers"] = str(config.num_layers)
        entries["width"] = (f"{config.d_model:,}", f"time mix {config.d_att:,}, channel mix {config.d_ffn:,}")
        if config.head_size:
            entries["heads"] = (str(config.d_att // config.head_size), f"of {config.head_size} channels")
        if config.ranks:
            entries["ranks"] = ", ".join(f"{name} {rank}" for name, rank in config.ranks.items())
        entries["vocabulary"] = f"{config.vocab_size:,}"
    entries["tokenizer"] = report.tokenizer or "none"
    entries["file"] = (byte_size(report.bytes_on_disk), report.format)
    types = sorted(report.dtypes.items(), key=lambda item: -item[1])
    entries["types"] = (", ".join(name for name, _ in types), plural(len(report.tensors), "tensor"))
    if report.state_bytes is not None:
        entries["state"] = (byte_size(report.state_bytes), "for each sequence")
    return facts(entries)


def _remarks(report: FileReport, found: Survey) -> Markup:
    """Return the section of problems and remarks."""
    nonfinite = {name: one.nan + one.inf for name, one in found.statistics.items() if one.nan or one.inf}
    zeros = [name for name, place in found.places.items() if place.kind in _WEIGHTS and _is_zero(found, name)]
    alarms: list[Child] = [escaped(problem, _LONGEST) for problem in report.problems]
    if nonfinite:
        alarms.append(_remark(f"{_numbers(nonfinite)} NaN or infinite", nonfinite))
    remarks = (
        (f"{_numbers(found.subnormals)} subnormal, below {_LEAST_NORMAL}, which counts as zero", found.subnormals),
        (f"{plural(len(zeros), 'tensor')} of zeros alone", zeros),
        (f"{plural(len(found.not_drawn), 'name')} not drawn", sorted(found.not_drawn)),
    )
    others: list[Child] = [escaped(warning, _LONGEST) for warning in report.warnings]
    others += [_remark(text, names) for text, names in remarks if names]
    good: list[Child] = []
    if not alarms:
        good.append(f"All {report.num_parameters:,} numbers are finite, and the parameters are complete.")
    parts = [notes(lines, kind) for lines, kind in ((alarms, "alarm"), (others, ""), (good, "good")) if lines]
    return section("Problems" if alarms else "Checks", *parts)


def _remark(text: str, names: Iterable[str]) -> Markup:
    return join(f"{text}: ", listed(names, _NAMED))


def _numbers(counts: Mapping[str, int]) -> str:
    """Return how many numbers there are, and in how many tensors."""
    return f"{plural(sum(counts.values()), 'number')} in {plural(len(counts), 'tensor')}"


def _is_zero(found: Survey, name: str) -> bool:
    one = found.statistics[name]
    return one.minimum == 0 and one.maximum == 0 and not (one.nan or one.inf)
