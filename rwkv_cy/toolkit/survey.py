"""What a report draws of a model's numbers: histograms, curves, sizes of weights and ranks, gathered in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.architectures import architecture_of
from rwkv_cy.architectures.curves import Curve, as_stored
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.dtypes import widen
from rwkv_cy.errors import RWKVError
from rwkv_cy.records import dataclass, field
from rwkv_cy.tensors.histogram import WeightHistogram
from rwkv_cy.tensors.reading import number_type, read_blocks, read_numbers
from rwkv_cy.tensors.statistics import TensorStatistics, measure_blocks
from rwkv_cy.tensors.tensor import TensorInfo
from rwkv_cy.toolkit.places import Place, places

__all__ = ["Group", "LayerMap", "Survey", "survey"]

Array = npt.NDArray[np.float64]

#: A map has at most so many rows and columns: neighbouring layers and channels are averaged.
ROWS, COLUMNS = 64, 96
#: Names of vectors that are drawn, and of matrices; no version has more.
PICTURES = 40
#: Vectors of more numbers are not drawn, and factors of more, or of a higher rank, are not decomposed.
_LARGEST_VECTOR, _LARGEST_FACTOR, _LARGEST_RANK = 1 << 20, 1 << 22, 512
#: Larger numbers are drawn as this one, so that differences do not overflow.
_BOUND = 1e300
#: Quantiles of a curve that are computed for each layer.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass
class Group:
    """Tensors that are counted together.

    Attributes
    ----------
    tensors, parameters, nbytes : int
        Number of tensors, of their elements, and of their bytes in the file.
    dtypes : set of str
        Types in the file.
    histogram : WeightHistogram
    """

    tensors: int = 0
    parameters: int = 0
    nbytes: int = 0
    dtypes: set[str] = field(default_factory=set)
    histogram: WeightHistogram = field(default_factory=WeightHistogram)

    def add(self, info: TensorInfo) -> None:
        """Count one tensor more; its numbers are added to the histogram as they are read."""
        self.tensors += 1
        self.parameters += info.size
        self.nbytes += info.source_nbytes
        self.dtypes.add(info.source_dtype)


class LayerMap:
    """A vector of every layer as a picture: rows are layers, columns are channels, in averages of neighbours.

    Parameters
    ----------
    curve : Curve
        What it shows.
    layers, channels : int
        Numbers of layers of the model, and of channels of the vector.

    Attributes
    ----------
    low, high : float
        Least and largest displayed number; inf and -inf if there are none.
    quantiles : dict of int to tuple of float
        By layer: the QUANTILES of its displayed numbers.
    skipped : int
        Layers whose vector is of another length than the first one's, and not drawn.
    """

    def __init__(self, curve: Curve, layers: int, channels: int) -> None:
        self.curve, self.layers, self.channels = curve, layers, channels
        self.low, self.high = np.inf, -np.inf
        self.quantiles: dict[int, tuple[float, ...]] = {}
        self.skipped = 0
        self._sums = np.zeros((min(layers, ROWS), min(channels, COLUMNS)))
        self._counts = np.zeros(self._sums.shape)
        self._starts = np.arange(self._sums.shape[1]) * channels // self._sums.shape[1]

    def add(self, layer: int, numbers: Array) -> None:
        """Add the vector of a layer, shape (channels,), as the file has it; what is not finite is left out."""
        shown = self.curve.transform(numbers)
        finite = np.isfinite(shown)
        if not finite.any():
            return
        values = np.clip(shown[finite], -_BOUND, _BOUND)
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.quantiles[layer] = tuple(np.quantile(values, QUANTILES).tolist())
        row = layer * self._sums.shape[0] // self.layers
        bounded = np.where(finite, np.clip(shown, -_BOUND, _BOUND), 0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            self._sums[row] += np.add.reduceat(bounded, self._starts)
        self._counts[row] += np.add.reduceat(finite.astype(np.float64), self._starts)

    @property
    def values(self) -> Array:
        """The picture: shape (rows, columns), NaN where there are no finite numbers."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self._sums / self._counts)


@dataclass
class Survey:
    """What a pass over all numbers of a model gives.

    Attributes
    ----------
    layers : int
        Number of layers.
    places : dict of str to Place
        Of each tensor, by name.
    statistics : dict of str to TensorStatistics
        Of each tensor.
    subnormals : dict of str to int
        Numbers below 2**-126, by name; tensors without any are left out.
    groups : dict of str to Group
        In the order of the file.
    maps : dict of str to LayerMap
        Vectors of the layers, by name within the layer: the architecture's curves first.
    sizes : dict of str to (dict of int to float)
        Root mean square of the numbers of each matrix, by name within the layer, then by layer.
    ranks : dict of str to (dict of int to tuple of float)
        Effective and nominal rank of each low-rank factor, by name within the layer, then by layer.
    not_drawn : set of str
        Names within the layers of further vectors and matrices: a report draws at most PICTURES of each kind.
    """

    layers: int
    places: dict[str, Place]
    statistics: dict[str, TensorStatistics] = field(default_factory=dict)
    subnormals: dict[str, int] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    maps: dict[str, LayerMap] = field(default_factory=dict)
    sizes: dict[str, dict[int, float]] = field(default_factory=dict)
    ranks: dict[str, dict[int, tuple[float, float]]] = field(default_factory=dict)
    not_drawn: set[str] = field(default_factory=set)


def survey(checkpoint: Checkpoint, progress: Callable[[int, int], None] | None = None) -> Survey:
    """Read every number of a model once, and its vectors and low-rank factors twice, tensor by tensor.

    Memory is bounded by a block of a matrix, or by the largest vector or factor, and by a few numbers for each tensor.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of any version, also one that is not supported.
    progress : callable, optional
        Called with the bytes done and the bytes of all tensors.

    Raises
    ------
    FormatError, StorageError
        As raised by the reader.
    """
    try:
        curves = {curve.name: curve for curve in architecture_of(checkpoint.config).curves}
        where = places(checkpoint.shapes, checkpoint.specs)
    except RWKVError:  # not a whole model of a supported version
        curves, where = {}, places(checkpoint.shapes, ())
    layers = 1 + max((place.layer for place in where.values() if place.layer is not None), default=-1)
    found = Survey(layers, where)
    infos = [checkpoint.source.info(name) for name in checkpoint.source.names()]
    total = sum(info.source_nbytes for info in infos)
    reader = _Reader(checkpoint, found, curves, None if progress is None else lambda done: progress(done, total))
    for info in infos:
        reader.read(info)
    order = {name: place for place, name in enumerate(curves)}
    found.maps = dict(sorted(found.maps.items(), key=lambda item: order.get(item[0], len(order))))
    return found


class _Reader:
    """Reads tensors into a survey."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        found: Survey,
        curves: dict[str, Curve],
        advance: Callable[[int], None] | None,
    ) -> None:
        self._source, self._found, self._curves, self._advance = checkpoint.source, found, curves, advance
        self._done = 0

    def read(self, info: TensorInfo) -> None:
        found, place = self._found, self._found.places[info.name]
        group = found.groups.setdefault(place.group, Group())
        group.add(info)
        before = group.histogram.subnormals
        statistics = measure_blocks(self._counted(info, group.histogram), number_type(info))
        found.statistics[info.name] = statistics
        if group.histogram.subnormals > before:
            found.subnormals[info.name] = group.histogram.subnormals - before
        if place.layer is None:
            return
        if place.kind == "vector":
            self._add_vector(info, place.member, place.layer)
        elif place.kind in ("matrix", "low_rank"):
            self._add_matrix(info, place, place.layer, statistics)

    def _counted(self, info: TensorInfo, histogram: WeightHistogram) -> Iterator[npt.NDArray[Any]]:
        """Yield the blocks of a tensor, counted, and report how many bytes of the file are done."""
        numbers = 0
        for block in read_blocks(self._source, info):
            histogram.add(block, number_type(info))
            yield block
            numbers += block.size
            if self._advance is not None:
                self._advance(self._done + info.source_nbytes * numbers // info.size)
        self._done += info.source_nbytes

    def _numbers(self, info: TensorInfo) -> Array:
        numbers = read_numbers(self._source, info, 0, info.size)
        return np.array(widen(numbers, number_type(info), "f64"))

    def _add_vector(self, info: TensorInfo, member: str, layer: int) -> None:
        maps = self._found.maps
        if member not in maps:
            fits = len(maps) < PICTURES or member in self._curves
            if not fits or not 0 < info.size <= _LARGEST_VECTOR:
                self._found.not_drawn.add(member)
                return
            curve = self._curves.get(member) or Curve(member, "other", "as stored", as_stored)
            maps[member] = LayerMap(curve, self._found.layers, info.size)
        if info.size == maps[member].channels:
            maps[member].add(layer, self._numbers(info))
        else:
            maps[member].skipped += 1

    def _add_matrix(self, info: TensorInfo, place: Place, layer: int, statistics: TensorStatistics) -> None:
        sizes, ranks = self._found.sizes, self._found.ranks
        if place.member not in sizes and len(sizes) >= PICTURES:
            self._found.not_drawn.add(place.member)
            return
        size = _root_mean_square(statistics)
        if size is not None:
            sizes.setdefault(place.member, {})[layer] = size
        found = self._ranks(info) if place.kind == "low_rank" else None
        if found is not None:
            ranks.setdefault(place.member, {})[layer] = found

    def _ranks(self, info: TensorInfo) -> tuple[float, float] | None:
        """Return effective and nominal rank of a factor, the mean of several; None if it is not decomposed."""
        shape = info.shape if len(info.shape) > 1 else (1, info.size)
        nominal = min(shape[-2:])
        if not 0 < info.size <= _LARGEST_FACTOR or nominal > _LARGEST_RANK:
            return None
        factors = self._numbers(info).reshape(-1, *shape[-2:])
        if not np.isfinite(factors).all():
            return None
        return float(np.mean([effective_rank(factor) for factor in factors])), float(nominal)


def _root_mean_square(statistics: TensorStatistics) -> float | None:
    if statistics.mean is None or statistics.std is None:
        return None
    return float(np.hypot(statistics.mean, statistics.std))


def effective_rank(factor: Array) -> float:
    """Return how many singular values a matrix has in effect: the exponential of the entropy of their energies.

    A matrix of n equal singular values has n, one of rank 1 has 1, and one of zeros has 0 (Roy and Vetterli 2007, with
    squares of the singular values). Computed from the Gram matrix of the shorter side.

    Parameters
    ----------
    factor : numpy.ndarray
        Shape (rows, columns), finite.
    """
    largest = float(np.abs(factor).max())
    if largest == 0:
        return 0.0
    scaled = factor / largest
    gram = scaled @ scaled.T if scaled.shape[0] <= scaled.shape[1] else scaled.T @ scaled
    energies = np.maximum(np.linalg.eigvalsh(gram), 0)
    shares = energies / energies.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))
