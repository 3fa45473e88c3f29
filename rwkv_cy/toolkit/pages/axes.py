"""Labels of layers and channels on axes, and series over many layers made shorter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rwkv_cy.toolkit.pages.charts import layer_ticks

__all__ = ["NAMES", "channel_labels", "layer_labels", "name_labels", "thinned"]

#: Space left of a heat map for names of tensors, and characters that it holds.
NAMES = 118.0
_NAME_LENGTH = 17

#: A line over layers has at most so many points.
_MOST_POINTS = 200


def layer_labels(layers: int, places: int) -> list[tuple[float, str]]:
    """Return labels of layers: the middle of each one's cell among `places` cells, and its number."""
    return [((layer + 0.5) * places / layers, str(layer)) for layer in layer_ticks(layers)]


def name_labels(names: Iterable[str]) -> list[tuple[float, str]]:
    """Return labels of rows: names of tensors without ``.weight``; of long ones, the end."""
    short = (name.removesuffix(".weight") for name in names)
    cut = (
        name if len(name) <= _NAME_LENGTH else f"\N{HORIZONTAL ELLIPSIS}{name[1 - _NAME_LENGTH :]}" for name in short
    )
    return [(row + 0.5, name) for row, name in enumerate(cut)]


def channel_labels(channels: int, places: int) -> list[tuple[float, str]]:
    """Return labels of channels: the first, those at quarters, and the last."""
    if channels < 8:
        return [((channel + 0.5) * places / channels, str(channel)) for channel in range(channels)]
    marks = [0, channels // 4, channels // 2, 3 * channels // 4, channels - 1]
    return [(mark * places / (channels - 1), f"{mark:,}") for mark in marks]


def thinned(by_layer: Mapping[int, Sequence[float]], layers: int) -> list[tuple[float, list[float]]]:
    """Return (layer, numbers) in the order of layers; of many, the means of neighbours."""
    size = -(-layers // _MOST_POINTS)
    groups: dict[int, list[int]] = {}
    for layer in sorted(by_layer):
        groups.setdefault(layer // size, []).append(layer)
    return [
        (float(np.mean(members)), np.mean([by_layer[layer] for layer in members], axis=0).tolist())
        for members in groups.values()
    ]
