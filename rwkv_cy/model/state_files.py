"""States from files: those that State.save wrote, and state-tuned checkpoints with only ``time_state``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from rwkv_cy.architectures import another_version, architecture_of
from rwkv_cy.config import Config
from rwkv_cy.dtypes import STORAGE_TYPES, array_dtype
from rwkv_cy.errors import StateError
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.hub import local_path
from rwkv_cy.model.state import State
from rwkv_cy.storage import is_model_file
from rwkv_cy.tensors.tensor import Parameter, ParameterSource

__all__ = ["StatefulModel", "load_state"]

#: Tensors that an error message names; it counts the others.
_NAMED = 5


class StatefulModel(Protocol):
    """The part of a model's interface that loading a state uses."""

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
        A file that :meth:`State.save` wrote, or a state-tuned checkpoint (``.pth`` or safetensors) with exactly one
        tensor per layer, ``blocks.i.att.time_state`` [head, value, key]. A tuned state replaces the initial one; its
        token shifts start at zero.

    Returns
    -------
    State

    Raises
    ------
    StateError
        If the state has another architecture, model, number of layers or shape; the message names both.
    FormatError
        If the file is damaged, or its format is not supported.
    StorageError
        If the operating system refuses access.
    """
    path = local_path(path)
    if is_model_file(path):
        return _checked(State.load(path), model.initial_state(), path)
    with open_checkpoint(path, expected="a state file, or a tuned state as .pth or safetensors") as source:
        parameters = _tuned_parameters(source, model.config)
    state = model.initial_state()
    tuned = architecture_of(model.config).initial_state(model.config, parameters)
    state.data[...] = tuned.reshape(state.data.shape)
    return state


def _checked(state: State, expected: State, path: Path) -> State:
    """Return `state` if it fits the model that `expected` belongs to."""
    layers = expected.num_layers
    for what, got, needed in (
        ("architecture", state.architecture, expected.architecture),
        ("number of layers", state.num_layers, layers),
        ("arrays", _shapes(state), _shapes(expected)),
        ("type", str(state.data.dtype), str(expected.data.dtype)),
    ):
        if got != needed:
            raise StateError(f"{path}: expected a state with the model's {what}, {needed}, got {got}")
    if state.fingerprint and expected.fingerprint and state.fingerprint != expected.fingerprint:
        raise StateError(
            f"{path}: expected a state of this model ({expected.fingerprint}), got one of another model with the same "
            f"dimensions ({state.fingerprint})"
        )
    return state


def _shapes(state: State) -> str:
    return ", ".join(f"{field.name} {field.shape}" for field in state.fields)


def _shape_problems(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Describe tensors of the wrong shape: the first, and how many others there are."""
    wrong = [name for name in found if name in expected and found[name] != expected[name]]
    if wrong:
        others = f" ({len(wrong) - 1} more have a wrong shape)" if len(wrong) > 1 else ""
        yield f"{wrong[0]}: the model has {expected[wrong[0]]}, the file {found[wrong[0]]}{others}"


def _tuned_parameters(source: ParameterSource, config: Config) -> Mapping[str, Parameter]:
    """Read the tuned initial states of all layers, after checking names and shapes."""
    architecture = architecture_of(config)
    expected = {spec.name: spec.shape for spec in architecture.parameters(config) if spec.kind == "state"}
    if not expected:
        raise StateError(
            f"{source.path}: {architecture.label} does not support tuned states; name a file that State.save wrote"
        )
    other = another_version(source.metadata, config)
    if other is not None:
        raise StateError(
            f"{source.path}: expected states of a model of the same version, {architecture.label}, got states that "
            f"were tuned on {other}; name the model that they were tuned on"
        )
    infos = {name: source.info(name) for name in source.names()}
    problems = [
        *(f"missing {name}" for name in expected if name not in infos),
        *(f"unexpected {name}" for name in infos if name not in expected),
        *_shape_problems(expected, {name: info.shape for name, info in infos.items()}),
        *(
            f"{name}: expected plain numbers, got {info.dtype}"
            for name, info in infos.items()
            if name in expected and info.dtype not in STORAGE_TYPES
        ),
    ]
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise StateError(
            f"{source.path}: expected the time_state of {config.num_layers} {architecture.label} layers and nothing "
            f"else, got {len(infos)} tensors: {'; '.join(problems[:_NAMED])}{more}"
        )
    parameters = {}
    for name, info in infos.items():
        numbers = np.empty(info.size, array_dtype(info.dtype))
        source.read_into(name, numbers)
        source.check_bytes(name)
        parameters[name] = Parameter(numbers.reshape(info.shape), info.dtype)
    return parameters
