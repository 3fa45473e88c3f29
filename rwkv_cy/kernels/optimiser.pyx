"""AdamW over flat arrays: one update, and the norm of a gradient."""

import numpy as np

from rwkv_cy.errors import KernelError

from cython cimport floating

from rwkv_cy.kernels.dispatch cimport active_ops, adamw_update, rk_adamw, rk_ops, square_sums, squares


def squared_norm(const floating[::1] x, int num_threads):
    """Return the sum of the squares of `x`, summed in float64 in an order that does not depend on the threads."""
    cdef Py_ssize_t n = x.shape[0]
    cdef double[::1] sums
    cdef const rk_ops *ops = active_ops(sizeof(floating) == 8)
    if num_threads < 1:
        raise KernelError(f"squared_norm: expected at least one thread, got {num_threads}")
    if n == 0:
        return 0.0
    parts = np.empty(square_sums(n))
    sums = parts
    with nogil:
        squares(ops, &x[0], n, &sums[0], num_threads)
    return float(parts.sum())


def adamw(floating[::1] values, const floating[::1] gradient, floating[::1] first, floating[::1] second,
          int num_threads, *, double scale, double beta1, double beta2, double epsilon, double keep, double step,
          double root):
    """Update parameters in place.

    Parameters
    ----------
    values, gradient, first, second : numpy.ndarray
        Of the same length, float32 or float64: the parameters, their gradient, and the running means of gradients and
        of their squares.
    num_threads : int
        The result is the same for every number.
    scale : float
        Multiplies the gradient.
    beta1, beta2, epsilon : float
    keep : float
        Multiplies the parameters before they move: weight decay.
    step : float
        Learning rate / (1 - beta1^t), at update t.
    root : float
        1 / sqrt(1 - beta2^t).

    Raises
    ------
    KernelError
        If the lengths differ.
    """
    cdef const rk_ops *ops = active_ops(sizeof(floating) == 8)
    cdef rk_adamw options = rk_adamw(scale, beta1, beta2, epsilon, keep, step, root)
    cdef Py_ssize_t n = values.shape[0]
    if not gradient.shape[0] == first.shape[0] == second.shape[0] == n or num_threads < 1:
        raise KernelError(
            f"adamw: expected {n} numbers in each array and at least one thread, got {gradient.shape[0]}, "
            f"{first.shape[0]}, {second.shape[0]} and {num_threads} threads"
        )
    if n:
        with nogil:
            adamw_update(ops, &options, &gradient[0], &first[0], &second[0], &values[0], n, num_threads)
