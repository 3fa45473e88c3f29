"""The arena: one array that holds the states of all slots."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Arena"]


class Arena:
    """States for texts in progress, taken and given back by slot. The system provides memory as it is first written.

    Parameters
    ----------
    slots : int
        Texts in progress at once.
    planes : int
        States of each: the first for ordinary steps; all of them, one after each token, for steps with drafts.
    like : numpy.ndarray
        A state: shape (num_layers, elements of a layer's state), and its type.
    """

    def __init__(self, slots: int, planes: int, like: npt.NDArray[Any]) -> None:
        self._states = np.empty((slots, planes, *like.shape), like.dtype)
        self._free = list(range(slots))[::-1]

    def __len__(self) -> int:
        """Return the number of free slots."""
        return len(self._free)

    def take(self) -> tuple[int, npt.NDArray[Any]]:
        """Return a free slot and its states, shape (planes, num_layers, elements), undefined."""
        slot = self._free.pop()
        return slot, self._states[slot]

    def give_back(self, slot: int) -> None:
        """Mark a slot as free."""
        self._free.append(slot)
