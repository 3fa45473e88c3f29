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
from rwkv_cy.tensors.tensor import ParameterSource
from rwkv_cy.training.adamw import AdamW
from rwkv_cy.training.methods import Method
from rwkv_cy.training.tensor_file import type_of, write_tensors

__all__ = ["OtherRunError", "read_checkpoint", "write_checkpoint"]

#: Prefixes of the tensors: values, means of gradients, means of their squares.
_PARTS = ("value.", "first.", "second.")


class OtherRunError(ConfigError):
    """A checkpoint belongs to another run.

    Parameters
    ----------
    path : Path
    differences : mapping of str to (object, object)
        Settings by name: the value in the checkpoint, and that of this run.
    names : mapping of str to str, optional
        What the message calls a setting, where that is not its name.
    """

    def __init__(
        self, path: Path, differences: Mapping[str, tuple[Any, Any]], names: Mapping[str, str] | None = None
    ) -> None:
        self.path, self.differences = path, differences
        named = names or {}
        pairs = ", ".join(f"{named.get(key, key)} {then!r} (now {now!r})" for key, (then, now) in differences.items())
        super().__init__(
            f"{path}: expected the checkpoint of this run, got one with other options: {pairs}; pass the same "
            "options, or remove the folder to begin again"
        )


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
        What the run consists of, ready for JSON: a checkpoint of another run is refused, except for another number of
        ``steps``.
    """
    tensors = _tensors(method, optimiser)
    note = {"step": step, "updates": optimiser.steps, "run": run}
    write_tensors(path, tensors, metadata={"training": json.dumps(note)}, overwrite=True)


def _tensors(method: Method, optimiser: AdamW) -> dict[str, npt.NDArray[Any]]:
    """Return what a checkpoint holds, by the names in it."""
    parts = zip(_PARTS, (method.values, optimiser.first, optimiser.second), strict=True)
    return {prefix + name: array for prefix, arrays in parts for name, array in arrays.items()}


def read_checkpoint(path: Path, method: Method, optimiser: AdamW, run: Mapping[str, Any]) -> tuple[int, int]:
    """Read a checkpoint into the method's values and the optimiser's means.

    Returns
    -------
    complete, planned : int
        Steps that are complete, and how many the run was to have when the checkpoint was written.

    Raises
    ------
    OtherRunError
        If it belongs to another run; the message says what differs.
    ConfigError
        If more steps are complete than the run has.
    FormatError
        If the file is damaged.
    """
    with open_safetensors(path) as source:
        try:
            note = json.loads(source.metadata["training"])
            step, updates, other = int(note["step"]), int(note["updates"]), dict(note["run"])
            planned = int(other["steps"])
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise FormatError(f"{path}: expected a checkpoint of a training run, got another file") from error
        differ = [key for key in {**run, **other} if key != "steps" and run.get(key) != other.get(key)]
        if differ:
            # The model of another seed or size is another one, too.
            shown = [key for key in differ if key != "model"] or differ
            raise OtherRunError(path, {key: (other.get(key), run.get(key)) for key in shown[:4]})
        if step > run["steps"]:
            raise ConfigError(
                f"{path}: expected at most {run['steps']:,} complete steps, got {step:,}; pass --steps {step} or more, "
                "or remove the folder to begin again"
            )
        tensors = _tensors(method, optimiser)
        _check(path, source, tensors)
        for name, array in tensors.items():
            flat = array.reshape(-1)
            read = np.empty_like(flat)
            source.read_into(name, read)
            flat[...] = read
    optimiser.steps = updates
    return step, planned


def _check(path: Path, source: ParameterSource, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise FormatError unless a file holds these tensors."""
    infos = {name: source.info(name) for name in source.names()}
    found = {name: (info.shape, info.dtype) for name, info in infos.items()}
    expected = {name: (array.shape, type_of(array)) for name, array in tensors.items()}
    for name in {**expected, **found}:
        if found.get(name) != expected.get(name):
            raise FormatError(
                f"{path}: {name}: expected {expected.get(name, 'none')}, got {found.get(name, 'none')}; remove the "
                "folder to begin again"
            )
