"""Comparison of two model files of any formats: names, shapes, types, numbers, config and tokenizer."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.architectures import version_label
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.checkpoint.tokenizer_choice import describe_tokenizer
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError, RWKVError
from rwkv_cy.records import dataclass
from rwkv_cy.storage import StoredTokenizer
from rwkv_cy.tensors.difference import Comparison, Difference
from rwkv_cy.toolkit.schema_names import named
from rwkv_cy.toolkit.tensor_names import matching_names

__all__ = ["DiffReport", "TensorDifference", "compare", "config_differences", "describe_values", "diff"]

#: What follows from the types of the tensors.
_NOT_COMPARED = {"compute_dtype"}


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that both files have.

    Attributes
    ----------
    name : str
        Canonical name.
    shapes : tuple of (tuple of int)
        Canonical shape in each file.
    dtypes : tuple of str
        Type in each file (``"bf16"``, ``"q5_1"``).
    difference : Difference or None
        Of the numbers; None if the shapes differ.
    """

    name: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtypes: tuple[str, str]
    difference: Difference | None

    @property
    def place(self) -> tuple[int, ...] | None:
        """Index of the first difference that is not finite, or else of the largest one; None if all are equal."""
        element = None if self.difference is None else self.difference.place
        if element is None:
            return None
        index: list[int] = []
        for length in reversed(self.shapes[0]):
            element, rest = divmod(element, length)
            index.append(rest)
        return tuple(reversed(index))

    def same(self, tolerance: float) -> bool:
        """Tell whether shapes are equal, and numbers within `tolerance` of the largest number of the tensor."""
        return self.difference is not None and self.difference.largest_relative <= tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values, ready for JSON; a measure that is not finite becomes None."""
        found, place = self.difference, self.place
        numbers = None
        if found is not None:
            measures = {
                "largest": found.largest,
                "largest_relative": found.largest_relative,
                "mean": found.mean,
                "relative": found.relative,
            }
            numbers = {
                "size": found.size,
                "differing": found.differing,
                "nonfinite": found.nonfinite,
                **{name: value if math.isfinite(value) else None for name, value in measures.items()},
                "place": None if place is None else list(place),
            }
        shapes = [list(shape) for shape in self.shapes]
        return {"name": self.name, "shapes": shapes, "dtypes": list(self.dtypes), "difference": numbers}


@dataclass(frozen=True)
class DiffReport:
    """Result of a comparison of two files, A and B.

    Attributes
    ----------
    paths : tuple of Path
    formats : tuple of str
    architectures : tuple of (str or None)
        Label of the version, whether it is supported or not; None if unknown.
    config : dict of str to tuple
        Dimensions and settings that differ, with both values. Empty if one of the files is not a whole model.
    tokenizers : tuple of str
        The tokenizers in words.
    same_tokenizer : bool
    only_in : tuple of (tuple of str)
        Names of the tensors that only A has, and only B.
    tensors : tuple of TensorDifference
        Those of both files, the most different first.
    tolerance : float
        Largest difference that counts as equal, relative to the largest number of the tensor.
    problems : tuple of str
        Why a file is not a whole model of a supported version, one sentence each.
    """

    paths: tuple[Path, Path]
    formats: tuple[str, str]
    architectures: tuple[str | None, str | None]
    config: dict[str, tuple[Any, Any]]
    tokenizers: tuple[str, str]
    same_tokenizer: bool
    only_in: tuple[tuple[str, ...], tuple[str, ...]]
    tensors: tuple[TensorDifference, ...]
    tolerance: float
    problems: tuple[str, ...]

    @property
    def different(self) -> tuple[TensorDifference, ...]:
        """The tensors whose shapes differ, or whose numbers differ by more than the tolerance."""
        return tuple(tensor for tensor in self.tensors if not tensor.same(self.tolerance))

    @property
    def same(self) -> bool:
        """Whether both files have the same tensors and config, whatever their formats, types and tokenizers."""
        return not (self.different or any(self.only_in) or self.config)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        fields = {
            "paths": [str(path) for path in self.paths],
            "formats": list(self.formats),
            "architectures": list(self.architectures),
            "same": self.same,
            "tolerance": self.tolerance,
            "config": {name: list(values) for name, values in self.config.items()},
            "tokenizers": list(self.tokenizers),
            "same_tokenizer": self.same_tokenizer,
            "only_in": [list(names) for names in self.only_in],
            "tensors": [tensor.to_dict() for tensor in self.tensors],
            "problems": list(self.problems),
        }
        return named("diff", fields)


def diff(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    tensors: str = "*",
    tolerance: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> DiffReport:
    """Compare two model files of any formats and precisions.

    Tensors are compared under their canonical names, in their canonical shapes, decoded, in float64. Numbers are read
    once, or twice where the types are equal and some bits are not, in memory that is bounded by a block, by sixteen
    rows of a quantized matrix, or by 32 MiB for one that is stored transposed. Checksums are not compared:
    :func:`rwkv_cy.verify` does that.

    Parameters
    ----------
    first, second : path
        Model files, or checkpoints of any supported format, whether their version is supported or not.
    tensors : str, default "*"
        Compare only tensors whose names match this pattern, as ``"blocks.0.*"``.
    tolerance : float, default 0
        Largest difference that counts as equal, relative to the largest number of the tensor.
    progress : callable, optional
        Called with the numbers compared and all numbers to compare.

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
        If the operating system refuses access.
    """
    with Checkpoint.open(first) as a, Checkpoint.open(second) as b:
        return compare(a, b, tensors=tensors, tolerance=tolerance, progress=progress)


def compare(
    a: Checkpoint,
    b: Checkpoint,
    *,
    tensors: str = "*",
    tolerance: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
    exponents: Callable[[str], npt.NDArray[np.int64]] | None = None,
) -> DiffReport:
    """Compare two open models, as :func:`diff` does.

    Parameters
    ----------
    a, b : Checkpoint
    tensors, tolerance, progress
        As for :func:`diff`.
    exponents : callable, optional
        Returns, for the name of a tensor, the counters that its differences are added to, as
        :func:`rwkv_cy.tensors.difference.measure_difference` takes them.
    """
    if not tolerance >= 0:
        raise ConfigError(f"tolerance: expected a non-negative number, got {tolerance!r}")
    everything = dict.fromkeys((*a.shapes, *b.shapes))
    chosen = set(matching_names(everything, tensors, f"{a.path}, {b.path}"))
    shapes = [{n: s for n, s in checkpoint.shapes.items() if n in chosen} for checkpoint in (a, b)]
    common = [name for name in shapes[0] if name in shapes[1]]
    comparable = [name for name in common if shapes[0][name] == shapes[1][name]]
    counter = _Counter(progress, sum(math.prod(shapes[0][name]) for name in comparable))
    comparison = Comparison(a.source, b.source, counter.add)
    found = [
        TensorDifference(
            name=name,
            shapes=(shapes[0][name], shapes[1][name]),
            dtypes=(a.source.info(name).source_dtype, b.source.info(name).source_dtype),
            difference=comparison.measure(name, None if exponents is None else exponents(name))
            if shapes[0][name] == shapes[1][name]
            else None,
        )
        for name in common
    ]
    (one, problem), (other, other_problem) = _config(a), _config(b)
    tokenizers = _tokenizer(a, one), _tokenizer(b, other)
    return DiffReport(
        paths=(a.path, b.path),
        formats=(a.source.format, b.source.format),
        architectures=(version_label(a.shapes), version_label(b.shapes)),
        config={} if one is None or other is None else config_differences(one, other),
        tokenizers=(describe_tokenizer(tokenizers[0]), describe_tokenizer(tokenizers[1])),
        same_tokenizer=tokenizers[0] == tokenizers[1],
        only_in=(
            tuple(name for name in shapes[0] if name not in shapes[1]),
            tuple(name for name in shapes[1] if name not in shapes[0]),
        ),
        tensors=tuple(sorted(found, key=_equality)),
        tolerance=tolerance,
        problems=tuple(filter(None, (problem, other_problem))),
    )


def _equality(tensor: TensorDifference) -> float:
    """Return the key of the order: least for the most different."""
    return -math.inf if tensor.difference is None else -tensor.difference.relative


class _Counter:
    """Adds up numbers for a progress function."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def add(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


def _config(checkpoint: Checkpoint) -> tuple[Config | None, str]:
    """Return the config, or why there is none."""
    try:
        return checkpoint.config, ""
    except RWKVError as error:
        return None, str(error)


def config_differences(first: Config, second: Config) -> dict[str, tuple[Any, Any]]:
    """Return the dimensions and settings that differ, with both values; not those that follow from the types."""
    one, other = vars(first), vars(second)
    return {name: (one[name], other[name]) for name in one if one[name] != other[name] and name not in _NOT_COMPARED}


def describe_values(one: Any, other: Any) -> tuple[str, str]:
    """Return two values of a setting in words; of settings by name, such as ranks, those that differ."""
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return str(one), str(other)
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    first, second = (", ".join(f"{name} {values.get(name, 'none')}" for name in names) for values in (one, other))
    return first, second


def _tokenizer(checkpoint: Checkpoint, config: Config | None) -> StoredTokenizer | None:
    return None if config is None else checkpoint.choose_tokenizer()[0]
