"""The head of a language model: the last LayerNorm and the matrix that computes the logits."""

import numpy as np

from rwkv_cy.dtypes import STORAGE_TYPES, widen
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.matrix import make_matrix

from cython cimport floating

from rwkv_cy.kernels.dispatch cimport active_ops, all_finite, layer_norm, matmul, rk_ops, rk_product, rk_tokens
from rwkv_cy.kernels.matrix cimport Matrix, Workspace, padded


cdef class Head:
    """Logits of tokens: matrix @ LayerNorm(x).

    Parameters
    ----------
    parameters : mapping of str to Parameter
        ``ln_out.weight`` and ``ln_out.bias``, (d_model,), and ``head.weight``, (vocab_size, d_model).
    real : {"f32", "f64"}
        Type of the activations.
    eps : float
        Epsilon of LayerNorm, added to the variance.
    activations : {"f32", "bf16"}, default "f32"
        Type of the activations that a bf16 matrix is multiplied with; see :class:`rwkv_cy.kernels.matrix.Matrix`.

    Raises
    ------
    KernelError
        If the widths differ, or the matrix is empty.
    """

    cdef readonly Matrix matrix
    cdef object _weight
    cdef object _bias
    cdef double _eps
    cdef size_t _itemsize

    def __init__(self, parameters, real, eps, activations="f32"):
        self.matrix = make_matrix(parameters["head.weight"], real, activations=activations)
        if self.matrix.m.rows < 1 or self.matrix.m.cols < 1:
            raise KernelError(
                f"Head: expected a matrix of at least one row and column, got ({self.matrix.m.rows}, "
                f"{self.matrix.m.cols})"
            )
        self._weight, self._bias = (
            np.ascontiguousarray(widen(parameters[name].array, parameters[name].dtype, real))
            for name in ("ln_out.weight", "ln_out.bias")
        )
        if not self._weight.shape == self._bias.shape == (self.matrix.m.cols,):
            raise KernelError(
                f"Head: expected weight and bias of ln_out of shape ({self.matrix.m.cols},), got "
                f"{self._weight.shape} and {self._bias.shape}"
            )
        self._eps = eps
        self._itemsize = STORAGE_TYPES[real].array_dtype.itemsize

    def logits(
        self,
        const floating[:, ::1] x,
        floating[:, ::1] out,
        Workspace workspace not None,
        int num_threads=1,
        bint check=True,
    ):
        """Compute the logits after each token.

        Parameters
        ----------
        x : numpy.ndarray
            Shape (tokens, d_model), the output of the last layer.
        out : numpy.ndarray
            Shape (tokens, vocab_size); receives the logits.
        workspace : Workspace
            Scratch memory to reuse.
        num_threads : int, default 1
            Threads to use; the result is the same for every number.
        check : bool, default True
            Whether to look at the logits.

        Returns
        -------
        bool
            Whether all logits are finite; True without `check`.

        Raises
        ------
        KernelError
            If an array has another shape, `x` does not have the head's type, or `num_threads` is below 1.
        """
        cdef Py_ssize_t tokens = x.shape[0]
        cdef Py_ssize_t width = self.matrix.m.cols
        cdef bint finite = True
        self._check(sizeof(floating), num_threads)
        if x.shape[1] != width or out.shape[0] != tokens or out.shape[1] != self.matrix.m.rows:
            raise KernelError(
                f"Head: expected x (tokens, {width}) and out (tokens, {self.matrix.m.rows}), got "
                f"({tokens}, {x.shape[1]}) and ({out.shape[0]}, {out.shape[1]})"
            )
        if tokens == 0:
            return True
        cdef const floating[::1] weight = self._weight
        cdef const floating[::1] bias = self._bias
        cdef const rk_ops *ops = active_ops(sizeof(floating) == 8)
        cdef size_t bytes_normed = padded(tokens * width * sizeof(floating))
        workspace.ensure(bytes_normed + self.matrix.scratch_bytes(ops, tokens, num_threads))
        cdef rk_product product = self.matrix.times(workspace.start, &out[0, 0])
        cdef rk_tokens all = rk_tokens(tokens, NULL, 0)
        with nogil:
            layer_norm(ops, &x[0, 0], &weight[0], &bias[0], self._eps, tokens, width, num_threads, workspace.start)
            matmul(ops, &product, 1, &all, workspace.start + bytes_normed, num_threads)
            if check:
                finite = all_finite(ops, &out[0, 0], tokens * self.matrix.m.rows)
        return finite

    def normalize(self, const floating[:, ::1] x, floating[:, ::1] out, int num_threads=1):
        """Apply the LayerNorm alone.

        Parameters
        ----------
        x : numpy.ndarray
            Shape (tokens, d_model), the output of the last layer.
        out : numpy.ndarray
            Shape (tokens, d_model), another array; receives the hidden states that the matrix is multiplied with.
        num_threads : int, default 1
            Threads to use; the result is the same for every number.

        Returns
        -------
        bool
            Whether all of them are finite.

        Raises
        ------
        KernelError
            If an array has another shape, `x` does not have the head's type, or `num_threads` is below 1.
        """
        cdef Py_ssize_t tokens = x.shape[0]
        cdef Py_ssize_t width = self.matrix.m.cols
        cdef bint finite
        self._check(sizeof(floating), num_threads)
        if x.shape[1] != width or out.shape[0] != tokens or out.shape[1] != width:
            raise KernelError(
                f"Head: expected x and out (tokens, {width}), got ({tokens}, {x.shape[1]}) and ({out.shape[0]}, "
                f"{out.shape[1]})"
            )
        if tokens == 0:
            return True
        cdef const floating[::1] weight = self._weight
        cdef const floating[::1] bias = self._bias
        cdef const rk_ops *ops = active_ops(sizeof(floating) == 8)
        with nogil:
            layer_norm(ops, &x[0, 0], &weight[0], &bias[0], self._eps, tokens, width, num_threads, &out[0, 0])
            finite = all_finite(ops, &out[0, 0], tokens * width)
        return finite

    cdef int _check(self, size_t itemsize, int num_threads) except -1:
        if itemsize != self._itemsize:
            raise KernelError(f"Head: expected numbers of {self._itemsize} bytes, got {itemsize}")
        if num_threads < 1:
            raise KernelError(f"Head: expected at least one thread, got {num_threads}")
        return 0
