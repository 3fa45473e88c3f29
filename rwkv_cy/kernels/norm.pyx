"""LayerNorm over the channels of each token."""

import numpy as np

from rwkv_cy.errors import KernelError

from cython cimport floating

from rwkv_cy.kernels.dispatch cimport active_ops, rk_ops
from rwkv_cy.kernels.dispatch cimport layer_norm as _layer_norm


def layer_norm(const floating[:, ::1] x, const floating[::1] weight, const floating[::1] bias, double eps,
               int num_threads=1):
    """Return the LayerNorm of `x` (tokens, width): (x - E[x]) / sqrt(Var[x] + eps) * weight + bias.

    Raises
    ------
    KernelError
        If the widths differ or are 0, or `num_threads` is below 1.
    """
    if num_threads < 1:
        raise KernelError(f"layer_norm: expected at least one thread, got {num_threads}")
    if not x.shape[1] == weight.shape[0] == bias.shape[0] or x.shape[1] == 0:
        raise KernelError(
            f"layer_norm: expected x, weight and bias of one width, got {x.shape[1]}, {weight.shape[0]}, "
            f"{bias.shape[0]}"
        )
    result = np.empty((x.shape[0], x.shape[1]), dtype=np.float64 if sizeof(floating) == 8 else np.float32)
    if x.shape[0] == 0:
        return result
    cdef floating[:, ::1] y = result
    cdef const rk_ops *ops = active_ops(sizeof(floating) == 8)
    with nogil:
        _layer_norm(ops, &x[0, 0], &weight[0], &bias[0], eps, x.shape[0], x.shape[1],
                    num_threads, &y[0, 0])
    return result
