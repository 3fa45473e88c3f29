"""The loss of a training run over its steps, as a picture beside the log."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.files.replacement import Replacement
from rwkv_cy.toolkit.pages.markup import Markup
from rwkv_cy.toolkit.pages.numbers import Scale, nice_ticks, number
from rwkv_cy.toolkit.pages.svg import axis_x, axis_y, label, picture, polyline, standalone
from rwkv_cy.training.log import read_log
from rwkv_cy.training.trainer import LOG

__all__ = ["PLOT", "loss_picture", "write_loss_plot"]

#: Name of the picture in the folder of a run.
PLOT = "loss.svg"

Points = npt.NDArray[np.float64]

_WIDTH, _HEIGHT, _LEFT, _TOP = 640.0, 300.0, 52.0, 26.0
#: Points of a curve: each is the mean of the steps that it stands for.
_POINTS = 300


def write_loss_plot(folder: Path) -> Path | None:
    """Draw the log of a run; return the path of the picture, None if there is nothing to draw yet."""
    records = [record for record in read_log(folder / LOG) if _is_number(record.get("loss"))]
    if len(records) < 2:
        return None
    path = folder / PLOT
    with Replacement(path, overwrite=True) as file:
        file.write_at(0, standalone(loss_picture(records)).encode())
        file.commit()
    return path


def loss_picture(records: list[dict[str, Any]]) -> Markup:
    """Return the loss of each step, and that of the held-out text where it was measured, in bits.

    Parameters
    ----------
    records : list of dict
        Of a log: ``step``, ``loss``, and now and then ``held_out_bits_per_byte``.
    """
    steps = np.array([record["step"] for record in records], np.float64)
    losses = np.array([record["loss"] for record in records], np.float64) / math.log(2)
    steps, losses = _thinned(steps), _thinned(losses)
    key = "held_out_bits_per_byte"
    held_out = [(float(record["step"]), float(record[key])) for record in records if _is_number(record.get(key))]
    every = [*losses.tolist(), *(value for _, value in held_out)]
    low, high = min(every), float(np.quantile(every, 0.99))
    up = Scale(low - 0.05 * (high - low), max(high, low + 1e-3), _HEIGHT - 40, _TOP)
    across = Scale(float(steps[0]), max(float(steps[-1]), float(steps[0]) + 1), _LEFT, _WIDTH - 12)
    ticks = [(value, number(value)) for value in nice_ticks(across.low, across.high)]
    parts = [
        axis_y(up, across.start, across.end, 5),
        axis_x(across, up.start, ticks),
        label((across.start + across.end) / 2, _HEIGHT - 8, "steps", "middle"),
        label(_LEFT, 14, "loss in bits a token; dashed: held-out text, bits a byte"),
        polyline([(across(x), up(y)) for x, y in zip(steps.tolist(), losses.tolist(), strict=True)], "line"),
    ]
    if len(held_out) > 1:
        parts.append(polyline([(across(x), up(y)) for x, y in held_out], "line2"))
    description = (
        f"From {number(float(losses[0]))} to {number(float(losses[-1]))} bits a token in {len(records)} steps."
    )
    return picture(_WIDTH, _HEIGHT, "Loss of a training run", description, *parts)


def _thinned(values: Points) -> Points:
    groups = np.array_split(values, min(_POINTS, values.size))
    return np.array([group.mean() for group in groups])


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
