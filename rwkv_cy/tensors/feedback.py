"""Feedback of quantization errors: later columns of a matrix make up for the errors of earlier ones.

The error of a row that counts is that of its products with the inputs of the matrix, e H e^T with the second moments H
of the inputs. H is taken as D + U U^T: a diagonal, and the sampled inputs. With the error e of the columns so far, of
which the products are p = e U, the remaining columns r do best to move by

    -p (I + U_r^T D_r^-1 U_r)^-1 U_r^T D_r^-1

before they are rounded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rwkv_cy.records import dataclass

__all__ = ["Feedback", "Inputs"]

Floats = npt.NDArray[np.float32]

#: Share of the second moments that is taken as independent between columns: what a sample says of the correlation of
#: two columns is as uncertain. And the least second moment, for inputs that are zero in the sample.
_INDEPENDENT, _LEAST = 0.2, 0.02


@dataclass(frozen=True)
class Feedback:
    """The feedback of one matrix, for blocks of `width` columns.

    Attributes
    ----------
    width : int
    sample : numpy.ndarray
        U: shape (columns, tokens).
    answer : numpy.ndarray
        Shape (columns, tokens): columns move by -p answer^T.
    importance : numpy.ndarray
        Shape (columns,): the second moments of a block's columns that later blocks cannot make up for.
    """

    width: int
    sample: Floats
    answer: Floats
    importance: Floats

    @classmethod
    def of(cls, inputs: Floats, width: int) -> Feedback:
        """Return the feedback for inputs of shape (tokens, columns)."""
        tokens, columns = inputs.shape
        sample = inputs.T.astype(np.float64)
        moments = (sample**2).mean(axis=1)
        mean = float(moments.mean()) or 1.0
        sample *= np.sqrt((1 - _INDEPENDENT) / (tokens * mean))
        diagonal = _INDEPENDENT * moments / mean + _LEAST
        gram = np.eye(tokens)
        answer, importance = np.empty_like(sample), np.empty(columns)
        # From the last block to the first: `gram` is that of the later blocks, then with the block's own.
        for start in reversed(range(0, columns, width)):
            block = slice(start, start + width)
            scaled = sample[block] / diagonal[block, None]
            importance[block] = diagonal[block] + (sample[block] * np.linalg.solve(gram, sample[block].T).T).sum(axis=1)
            gram += sample[block].T @ scaled
            answer[block] = np.linalg.solve(gram, scaled.T).T
        return cls(width, sample.astype(np.float32), answer.astype(np.float32), importance.astype(np.float32))

    def encode(
        self, numbers: Floats, encode: Callable[[Floats, Floats], npt.NDArray[np.uint8]], decode: Callable[..., Floats]
    ) -> npt.NDArray[np.uint8]:
        """Encode rows of the matrix, block by block.

        Parameters
        ----------
        numbers : numpy.ndarray
            Shape (rows, columns).
        encode, decode : callable
            ``encode(numbers, importance)`` returns the blocks of some columns, shape (groups, 1, bytes);
            ``decode(blocks, shape)`` the numbers.
        """
        from rwkv_cy.kernels.matrix import Matrix

        parts = []
        products = np.zeros((len(numbers), self.sample.shape[1]), np.float32)
        # The kernels' products, because those of a row do not depend on how many rows there are.
        for start in range(0, numbers.shape[1], self.width):
            block = slice(start, start + self.width)
            own = np.ascontiguousarray(numbers[:, block])
            moved = own - Matrix(np.ascontiguousarray(self.answer[block]), "f32").matmul(products)
            parts.append(encode(moved, np.ascontiguousarray(self.importance[block])))
            error = decode(parts[-1], own.shape) - own
            products += Matrix(np.ascontiguousarray(self.sample[block].T), "f32").matmul(error)
        return np.concatenate(parts, axis=1)


class Inputs:
    """A sample of what a matrix is multiplied with, shape (tokens, columns); several threads may use it at once."""

    def __init__(self, rows: Floats) -> None:
        self.rows = rows
        self._lock = threading.Lock()
        self._made: Feedback | None = None

    def feedback(self, width: int) -> Feedback:
        """Return the feedback for blocks of `width` columns."""
        with self._lock:
            if self._made is None or self._made.width != width:
                self._made = Feedback.of(self.rows, width)
            return self._made
