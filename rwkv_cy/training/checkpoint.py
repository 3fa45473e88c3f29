"""Checkpoints of a run: values, the optimiser's means, the step; complete or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import ConfigError, FormatError
from rwkv_cy.formats.safetensors import open_safetensors
from rwkv_cy.training.adamw import AdamW
from rwkv_cy.training.methods import Method
from rwkv_cy.training.tensor_file import write_tensors

__all__ = ["read_checkpoint", "write_checkpoint"]

#: Prefixes of the tensors: values, means of gradients, means of their squares.
_PARTS = ("value.", "first.", "second.")


def write_checkpoint(path: Path, method: Method, optimiser: AdamW, step: int, run: Mapping[str, Any]) -> None:
    """Write a checkpoint, which replaces an older one.

    Parameters
    ----------
    path : Path
        Its name ends in ``.safetensors``.
    method : Method
    optimiser : AdamW
    step : int
        Steps that are complete.
    run : mapping
        What the run consists of, ready for JSON: a checkpoint of another run is refused.
    """
    tensors: dict[str, npt.NDArray[Any]] = {}
    for prefix, arrays in zip(_PARTS, (method.values, optimiser.first, optimiser.second), strict=True):
        tensors |= {prefix + name: array for name, array in arrays.items()}
    note = {"step": step, "updates": optimiser.steps, "run": run}
    write_tensors(path, tensors, metadata={"training": json.dumps(note)}, overwrite=True)


def read_checkpoint(path: Path, method: Method, optimiser: AdamW, run: Mapping[str, Any]) -> int:
    """Read a checkpoint into the method's values and the optimiser's means, and return the steps that are complete.

    Raises
    ------
    ConfigError
        If it belongs to another run; the message says what differs.
    FormatError
        If the file is damaged.
    """
    with open_safetensors(path) as source:
        try:
            note = json.loads(source.metadata["training"])
            step, updates, other = int(note["step"]), int(note["updates"]), dict(note["run"])
        except (KeyError, ValueError, TypeError) as error:
            raise FormatError(f"{path}: expected a checkpoint of a training run, got another file") from error
        differ = sorted(key for key in {*run, *other} if run.get(key) != other.get(key))
        if differ:
            pairs = ", ".join(f"{key} {other.get(key)!r} (now {run.get(key)!r})" for key in differ[:4])
            raise ConfigError(
                f"{path}: expected the checkpoint of this run, got one with other options: {pairs}; pass the same "
                "options, or remove the folder to begin again"
            )
        for prefix, arrays in zip(_PARTS, (method.values, optimiser.first, optimiser.second), strict=True):
            for name, array in arrays.items():
                flat = array.reshape(-1)
                read = np.empty_like(flat)
                source.read_into(prefix + name, read)
                flat[...] = read
    optimiser.steps = updates
    return step
