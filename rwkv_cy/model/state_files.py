"""States from files: those that State.save wrote, and tuned initial states that hold ``time_state`` alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from rwkv_cy.architectures import architecture_of
from rwkv_cy.config import Config
from rwkv_cy.dtypes import STORAGE_TYPES, array_dtype
from rwkv_cy.errors import StateError
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.model.state import State
from rwkv_cy.storage import is_model_file
from rwkv_cy.tensors.tensor import Parameter, ParameterSource

__all__ = ["StatefulModel", "load_state"]

#: A message names so many tensors and counts the rest.
_NAMED = 5


class StatefulModel(Protocol):
    """What loading a state needs of a model."""

    config: Config

    def initial_state(self) -> State:
        """Return a new state, before the first token."""
        ...


def load_state(model: StatefulModel, path: str | os.PathLike[str]) -> State:
    """Read a state for `model` from a file.

    Parameters
    ----------
    model : LanguageModel
        The model that will continue from the state.
    path : path-like
        A file that :meth:`State.save` wrote; or a state-tuned file, ``.pth`` or safetensors, that holds
        ``blocks.i.att.time_state`` of every layer, [head, value, key], and nothing else. A tuned state replaces the
        initial one: token shifts begin at zero.

    Returns
    -------
    State

    Raises
    ------
    StateError
        If the state is of another architecture, model, number of layers or shape; the message names both.
    FormatError
        If the file is damaged, or of a format that is not read here.
    StorageError
        If the operating system refuses it.
    """
    path = Path(path)
    if is_model_file(path):
        return _checked(State.load(path), model.initial_state(), path)
    with open_checkpoint(path) as source:
        parameters = _tuned_parameters(source, model.config)
    state = model.initial_state()
    tuned = architecture_of(model.config).initial_state(model.config, parameters)
    state.data[...] = tuned.reshape(state.data.shape)
    return state


def _checked(state: State, expected: State, path: Path) -> State:
    """Return `state` if it fits the model that `expected` belongs to."""
    layers = expected.num_layers
    for what, got, wanted in (
        ("architecture", state.architecture, expected.architecture),
        ("number of layers", state.num_layers, layers),
        ("arrays", _shapes(state), _shapes(expected)),
        ("type", str(state.data.dtype), str(expected.data.dtype)),
    ):
        if got != wanted:
            raise StateError(f"{path}: expected a state with the model's {what}, {wanted}, got {got}")
    if state.fingerprint and expected.fingerprint and state.fingerprint != expected.fingerprint:
        raise StateError(
            f"{path}: expected a state of this model ({expected.fingerprint}), got one of another model with the same "
            f"dimensions ({state.fingerprint})"
        )
    return state


def _shapes(state: State) -> str:
    return ", ".join(f"{field.name} {field.shape}" for field in state.fields)


def _tuned_parameters(source: ParameterSource, config: Config) -> Mapping[str, Parameter]:
    """Read the tuned initial states of all layers, after checking names and shapes."""
    architecture = architecture_of(config)
    expected = {spec.name: spec.shape for spec in architecture.parameters(config) if spec.kind == "state"}
    if not expected:
        raise StateError(
            f"{source.path}: {architecture.label} has no tuned initial state; name a file that State.save wrote"
        )
    found = {name: source.info(name) for name in source.names()}
    problems = [
        *(f"missing {name}" for name in expected if name not in found),
        *(f"unexpected {name}" for name in found if name not in expected),
        *(
            f"{name}: the model has {expected[name]}, the file {info.shape}"
            for name, info in found.items()
            if name in expected and info.shape != expected[name]
        ),
        *(
            f"{name}: expected plain numbers, got {info.dtype}"
            for name, info in found.items()
            if name in expected and info.dtype not in STORAGE_TYPES
        ),
    ]
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise StateError(
            f"{source.path}: expected the time_state of {config.num_layers} {architecture.label} layers and nothing "
            f"else, got {len(found)} tensors: {'; '.join(problems[:_NAMED])}{more}"
        )
    parameters = {}
    for name, info in found.items():
        numbers = np.empty(info.size, array_dtype(info.dtype))
        source.read_into(name, numbers)
        parameters[name] = Parameter(numbers.reshape(info.shape), info.dtype)
    return parameters
