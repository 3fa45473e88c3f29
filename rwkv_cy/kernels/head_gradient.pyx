"""The backward pass of the head of a language model, and its cross-entropy."""

import numpy as np

from rwkv_cy.dtypes import widen
from rwkv_cy.errors import KernelError

from cpython.exc cimport PyErr_CheckSignals
from cython cimport floating
from libc.string cimport memset

from rwkv_cy.kernels.dispatch cimport active_ops, cross_entropy, layer_norm, layer_norm_gradient, rk_tokens
from rwkv_cy.kernels.embedding cimport check_ids
from rwkv_cy.kernels.gradient cimport Backward, Weight
from rwkv_cy.kernels.matrix cimport Matrix, Workspace, padded, times
from rwkv_cy.kernels.stack cimport Arena, Pass, plain_pass, pointer, take


#: Most bytes of logits that are in memory at once in a cross-entropy.
LOGITS_BYTES = 96 << 20


cdef class HeadGradient:
    """Logits of tokens, matrix @ LayerNorm(x), and the way back.

    Parameters
    ----------
    matrix : Matrix
        Shape (vocab_size, d_model).
    parameters : mapping of str to Parameter
        ``ln_out.weight`` and ``ln_out.bias``, (d_model,).
    real : {"f32", "f64"}
        Type of the activations.
    eps : float
        Epsilon of LayerNorm.
    """

    cdef Weight _weight
    cdef Py_ssize_t _rows, _cols
    cdef object _scale, _bias
    cdef const char *_scale_data
    cdef const char *_bias_data
    cdef double _eps
    cdef size_t _itemsize

    #: Names of the parameters that get a gradient, in the order of the arguments of the methods.
    names = ("head.weight", "ln_out.weight", "ln_out.bias")

    def __init__(self, Matrix matrix not None, parameters, real, eps):
        self._weight = Weight(matrix, 0)
        self._rows, self._cols = matrix.shape
        self._scale, self._bias = (
            np.ascontiguousarray(widen(parameters[name].array, parameters[name].dtype, real)) for name in self.names[1:]
        )
        self._scale_data, self._bias_data = pointer(self._scale), pointer(self._bias)
        self._eps = eps
        self._itemsize = self._scale.itemsize

    @property
    def chunk_tokens(self):
        """The most tokens whose logits are in memory at once in :meth:`cross_entropy`."""
        return max(16, LOGITS_BYTES // (self._rows * self._itemsize))

    def logits(self, const floating[:, ::1] x, floating[:, ::1] out, Workspace workspace not None, int num_threads):
        """Compute the logits after each token; `x` (tokens, d_model), `out` (tokens, vocab_size)."""
        cdef Py_ssize_t tokens = x.shape[0]
        self._check(sizeof(floating), x.shape[1], out.shape[0] == tokens and out.shape[1] == self._rows, num_threads)
        if tokens == 0:
            return
        cdef Pass p = self._pass(tokens, num_threads)
        cdef Arena arena = Arena(NULL, 0)
        take(&arena, tokens * self._cols * self._itemsize)
        workspace.ensure(arena.used + self._weight.scratch(&p))
        with nogil:
            self._forward(&p, <const char *>&x[0, 0], workspace.start, <char *>&out[0, 0],
                          workspace.start + arena.used)

    def backward(self, const floating[:, ::1] x, const floating[:, ::1] d_logits, floating[:, ::1] dx, gradients,
                 Workspace workspace not None, int num_threads):
        """Go back from the gradient of the logits.

        Parameters
        ----------
        x : numpy.ndarray
            Shape (tokens, d_model).
        d_logits : numpy.ndarray
            Shape (tokens, vocab_size).
        dx : numpy.ndarray
            Shape (tokens, d_model); receives the gradient of `x`.
        gradients : sequence of numpy.ndarray or None
            Arrays that the gradients of `names` are added to; None for one that is frozen.
        workspace : Workspace
        num_threads : int
        """
        cdef Py_ssize_t tokens = x.shape[0]
        fits = d_logits.shape[0] == dx.shape[0] == tokens
        fits = fits and d_logits.shape[1] == self._rows and dx.shape[1] == self._cols
        self._check(sizeof(floating), x.shape[1], fits, num_threads)
        if tokens == 0:
            return
        cdef char *pointers[3]
        cdef Backward b
        self._begin(&b, pointers, gradients, tokens, num_threads)
        workspace.ensure(self._scratch(&b.forward))
        with nogil:
            self._norm(&b.forward, <const char *>&x[0, 0], workspace.start)
            self._back(&b, <const char *>&x[0, 0], <const char *>&d_logits[0, 0], workspace.start, <char *>&dx[0, 0])

    def cross_entropy(self, const floating[:, ::1] x, const long long[::1] targets, const double[::1] weights,
                      double l2_wrap, double[::1] losses, floating[:, ::1] dx, gradients, Workspace workspace not None,
                      int num_threads):
        """Compute the cross-entropy of the token after each, and go back, in chunks of tokens.

        Parameters
        ----------
        x : numpy.ndarray
            Shape (tokens, d_model).
        targets : numpy.ndarray
            int64 [tokens]: the right tokens.
        weights : numpy.ndarray
            float64 [tokens]: the loss is the sum of the losses times these.
        l2_wrap : float
            Added to the gradient of the largest logit of each token: `l2_wrap` times it times the weight.
        losses : numpy.ndarray
            float64 [tokens]; receives the negative logarithm of each target's probability.
        dx, gradients, workspace, num_threads
            As for :meth:`backward`.
        """
        cdef Py_ssize_t tokens = x.shape[0]
        cdef Py_ssize_t most = min(tokens, self.chunk_tokens)
        cdef Py_ssize_t first, count
        self._check(
            sizeof(floating), x.shape[1],
            targets.shape[0] == weights.shape[0] == losses.shape[0] == dx.shape[0] == tokens
            and dx.shape[1] == self._cols,
            num_threads,
        )
        if tokens == 0:
            return
        check_ids("targets", &targets[0], tokens, self._rows)
        cdef char *pointers[3]
        cdef Backward b
        cdef size_t scratch
        # The last chunk may be smaller, and need more scratch for other kernels.
        self._begin(&b, pointers, gradients, tokens % most, num_threads)
        scratch = self._scratch(&b.forward) if tokens % most else 0
        self._begin(&b, pointers, gradients, most, num_threads)
        scratch = max(scratch, self._scratch(&b.forward))
        workspace.ensure(scratch + padded(most * self._rows * self._itemsize))
        cdef char *logits = workspace.start + scratch
        for first in range(0, tokens, most):
            PyErr_CheckSignals()
            count = min(most, tokens - first)
            b.forward.tokens.count = count
            with nogil:
                self._forward(&b.forward, <const char *>&x[first, 0], workspace.start, logits,
                              workspace.start + padded(count * self._cols * self._itemsize))
                cross_entropy(b.forward.ops, logits, &targets[first], &weights[first], l2_wrap, count, self._rows,
                              &losses[first], num_threads)
                self._back(&b, <const char *>&x[first, 0], logits, workspace.start, <char *>&dx[first, 0])

    cdef Pass _pass(self, Py_ssize_t tokens, int num_threads) except *:
        return plain_pass(active_ops(self._itemsize == 8), rk_tokens(tokens, NULL, 0), num_threads)

    cdef int _begin(self, Backward *b, char **pointers, gradients, Py_ssize_t tokens, int num_threads) except -1:
        cdef int i
        b.forward = self._pass(tokens, num_threads)
        b.gradients, b.d_shared, b.d_embedded = pointers, NULL, NULL
        for i in range(3):
            pointers[i] = NULL if gradients[i] is None else <char *>pointer(gradients[i])
        return 0

    cdef size_t _scratch(self, const Pass *p) noexcept nogil:
        """Return the bytes of `_back`: normalized tokens, their gradient, moments, and a product."""
        cdef size_t row = padded(p.tokens.count * self._cols * self._itemsize)
        return 2 * row + padded(2 * p.tokens.count * self._itemsize) + self._weight.scratch(p)

    cdef void _norm(self, const Pass *p, const char *x, char *normed) noexcept nogil:
        layer_norm(p.ops, x, self._scale_data, self._bias_data, self._eps, p.tokens.count,
                   self._cols, p.num_threads, normed)

    cdef void _forward(self, const Pass *p, const char *x, char *normed, char *logits, char *scratch) noexcept nogil:
        self._norm(p, x, normed)
        self._weight.forward(p, times(&self._weight.m, normed, logits), scratch)

    cdef void _back(self, const Backward *b, const char *x, const char *d_logits, char *start,
                    char *dx) noexcept nogil:
        """dx = gradient of x; the normalized tokens are at `start`."""
        cdef const Pass *p = &b.forward
        cdef size_t size = p.tokens.count * self._cols * self._itemsize
        cdef Arena arena = Arena(start, 0)
        cdef char *normed = take(&arena, size)
        cdef char *d_normed = take(&arena, size)
        cdef char *moments = take(&arena, 2 * p.tokens.count * self._itemsize)
        self._weight.backward(b, normed, self._cols, d_logits, d_normed, take(&arena, 0))
        memset(dx, 0, size)
        layer_norm_gradient(p.ops, x, self._scale_data, self._eps, d_normed, p.tokens.count, self._cols, dx,
                            b.gradients[1], b.gradients[2], moments, p.num_threads)

    cdef int _check(self, size_t itemsize, Py_ssize_t width, bint fits, int num_threads) except -1:
        if itemsize != self._itemsize or width != self._cols or not fits or num_threads < 1:
            raise KernelError(
                f"HeadGradient: expected numbers of {self._itemsize} bytes, x (tokens, {self._cols}), logits (tokens, "
                f"{self._rows}), everything else for as many tokens, and at least one thread; got numbers of "
                f"{itemsize} bytes, a width of {width} and {num_threads} threads"
            )
        return 0
