"""States as the authors' package lists them: some arrays a layer, one layer after the other; and back, exactly."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.compat.rwkv.arrays import as_array, as_tensor
from rwkv_cy.errors import StateError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.state import State

__all__ = ["StateList", "state_of"]


class _Entry(NamedTuple):
    """An array of the list: its layer, its name, and a view of the state in the list's order of axes."""

    layer: int
    name: str
    view: npt.NDArray[Any]


def _entries(state: State) -> Iterator[_Entry]:
    """Give the arrays of a state in the order of the list."""
    order = ARCHITECTURES[state.architecture].package_state or {
        field.name: tuple(range(len(field.shape))) for field in state.fields
    }
    for number, layer in enumerate(state.layers):
        for name, axes in order.items():
            yield _Entry(number, name, layer[name].transpose(axes))


class StateList(list[Any]):
    """A state in the layout of the authors' package; its arrays are views of a State.

    Parameters
    ----------
    state : State
        What the arrays show: writing to them changes it.

    Notes
    -----
    Entries may be replaced, and the list copied; the model then copies what is in it. A list that ``copy.deepcopy``
    made is independent. Pickled, it is a plain list.
    """

    def __init__(self, state: State) -> None:
        super().__init__(as_tensor(entry.view) for entry in _entries(state))
        self._state = state
        self._views = tuple(self)

    @property
    def state(self) -> State | None:
        """The State that the arrays show; None after an entry has been replaced, added or removed."""
        same = len(self) == len(self._views) and all(a is b for a, b in zip(self, self._views, strict=True))
        return self._state if same else None

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        state = self.state
        return copy.deepcopy(list(self), memo) if state is None else StateList(state.copy())

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


def state_of(model: LanguageModel, listed: Sequence[Any] | State | None) -> State | None:
    """Return the State for a list of arrays, copied unless the list shows a State already.

    Parameters
    ----------
    model : LanguageModel
    listed : sequence of arrays, State or None
        NumPy arrays or torch tensors of any floating-point type, in the package's order and shapes.

    Raises
    ------
    StateError
        If the list does not have the arrays of this model; the message names the first that does not fit.
    """
    if listed is None or isinstance(listed, State):
        return listed
    shown = listed.state if isinstance(listed, StateList) else None
    if shown is not None:
        return shown
    state = model.initial_state()
    entries = list(_entries(state))
    if not isinstance(listed, Sequence) or len(listed) != len(entries):
        got = f"{len(listed)} of them" if isinstance(listed, Sequence) else type(listed).__name__
        names = ", ".join(entry.name for entry in entries if entry.layer == 0)
        raise StateError(
            f"state: expected a list of {len(entries)} arrays ({names} of each of {state.num_layers} layers), "
            f"got {got}; start from None"
        )
    for index, (entry, value) in enumerate(zip(entries, listed, strict=True)):
        try:
            array = as_array(value)
            fits = array.shape == entry.view.shape and array.dtype.kind in "fiu"
            got = f"{array.shape} of {array.dtype}"
        except (TypeError, ValueError):
            fits, got = False, type(value).__name__
        if not fits:
            raise StateError(
                f"state[{index}]: expected {entry.name} of layer {entry.layer}, numbers of shape {entry.view.shape}, "
                f"got {got}; start from None"
            )
        entry.view[...] = array
    return state
