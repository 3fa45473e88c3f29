"""AdamW: the optimiser of the RWKV authors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.kernels.optimiser import adamw, squared_norm
from rwkv_cy.runtime import resolve_num_threads
from rwkv_cy.training.groups import Group, group_of
from rwkv_cy.training.options import TrainingOptions

__all__ = ["AdamW"]

Array = npt.NDArray[Any]


class AdamW:
    """Updates parameters in place; decay is decoupled from the gradient.

    Parameters
    ----------
    parameters : mapping of str to numpy.ndarray
        By name; contiguous, float32 or float64. They are updated in place.
    options : TrainingOptions

    Attributes
    ----------
    first, second : dict of str to numpy.ndarray
        Running means of the gradients and of their squares.
    steps : int
        Updates so far.

    Notes
    -----
    Every element is computed alone, and the norm in a fixed order: results do not depend on the number of threads.
    """

    def __init__(self, parameters: Mapping[str, Array], options: TrainingOptions) -> None:
        self._parameters = {name: array.reshape(-1) for name, array in parameters.items()}
        self._groups = {name: group_of(name, array.shape) for name, array in parameters.items()}
        self._options = options
        self.first = {name: np.zeros_like(array) for name, array in self._parameters.items()}
        self.second = {name: np.zeros_like(array) for name, array in self._parameters.items()}
        self.steps = 0

    def step(self, gradients: Mapping[str, Array], rate: float, num_threads: int | None = None) -> float:
        """Update every parameter that has a gradient.

        Parameters
        ----------
        gradients : mapping of str to numpy.ndarray
            By name, of the parameters' shapes.
        rate : float
            The learning rate.
        num_threads : int, optional

        Returns
        -------
        float
            The norm of all gradients together, before they were clipped; the update is skipped if it is not finite.
        """
        threads = resolve_num_threads(num_threads)
        flat = {name: gradients[name].reshape(-1) for name in self._parameters if name in gradients}
        norm = math.sqrt(sum(squared_norm(flat[name], threads) for name in sorted(flat)))
        if not math.isfinite(norm):
            return norm
        self.steps += 1
        o = self._options
        for name, gradient in flat.items():
            group = self._groups[name]
            adamw(
                self._parameters[name],
                gradient,
                self.first[name],
                self.second[name],
                threads,
                scale=min(1.0, o.clip / (norm + 1e-6)),
                beta1=o.beta1,
                beta2=o.beta2,
                epsilon=o.epsilon,
                keep=1 - rate * group.rate * o.weight_decay if group.decay else 1.0,
                step=rate * group.rate / (1 - o.beta1**self.steps),
                root=1 / math.sqrt(1 - o.beta2**self.steps),
            )
        return norm

    def group(self, name: str) -> Group:
        """Return the group of a parameter."""
        return self._groups[name]
