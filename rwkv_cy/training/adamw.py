"""AdamW: the optimiser of the RWKV authors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.runtime import resolve_num_threads
from rwkv_cy.tensors.parallel import run_jobs
from rwkv_cy.training.groups import Group, group_of
from rwkv_cy.training.options import TrainingOptions

__all__ = ["AdamW"]

Array = npt.NDArray[Any]

#: Numbers that are updated together: they and the temporaries fit into the caches of a core.
_BLOCK = 1 << 14


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
        flat = {name: gradients[name].reshape(-1) for name in self._parameters if name in gradients}
        norm = _norm(flat)
        if not math.isfinite(norm):
            return norm
        self.steps += 1
        scale = min(1.0, self._options.clip / (norm + 1e-6))
        jobs = [
            partial(self._update, name, gradient, begin, rate, scale)
            for name, gradient in flat.items()
            for begin in range(0, gradient.size, 64 * _BLOCK)
        ]
        run_jobs(jobs, resolve_num_threads(num_threads))
        return norm

    def _update(self, name: str, gradient: Array, start: int, rate: float, scale: float) -> None:
        o, group = self._options, self._groups[name]
        correct1, correct2 = 1 - o.beta1**self.steps, 1 - o.beta2**self.steps
        step = rate * group.rate
        keep = 1 - step * o.weight_decay if group.decay else 1.0
        for begin in range(start, min(start + 64 * _BLOCK, gradient.size), _BLOCK):
            part = slice(begin, begin + _BLOCK)
            p, m, v = self._parameters[name][part], self.first[name][part], self.second[name][part]
            g = gradient[part] * p.dtype.type(scale)
            m *= o.beta1
            m += (1 - o.beta1) * g
            v *= o.beta2
            np.multiply(g, g, out=g)
            v += (1 - o.beta2) * g
            np.sqrt(v, out=g)
            g /= math.sqrt(correct2)
            g += o.epsilon
            np.divide(m, g, out=g, where=g != 0)
            p *= keep
            p -= (step / correct1) * g

    def group(self, name: str) -> Group:
        """Return the group of a parameter."""
        return self._groups[name]


def _norm(gradients: Mapping[str, Array]) -> float:
    total = 0.0
    for name in sorted(gradients):
        array = gradients[name]
        for begin in range(0, array.size, _BLOCK):
            part = array[begin : begin + _BLOCK].astype(np.float64)
            total += float(np.add.reduce(part * part))
    return math.sqrt(total)
