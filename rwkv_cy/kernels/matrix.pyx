"""A weight matrix in any storage, and its product with one token or many."""

import numpy as np

from rwkv_cy.dtypes import STORAGE_TYPES
from rwkv_cy.errors import KernelError

from cython cimport floating

from rwkv_cy.kernels.dispatch cimport (
    RK_BF16, RK_F16, RK_F32, RK_F64, active_ops, matmul, matmul_scratch, rk_ops,
)

cdef dict _CODES = {"f32": RK_F32, "f64": RK_F64, "f16": RK_F16, "bf16": RK_BF16}

cdef enum:
    CACHE_LINE = 64


cdef size_t padded(size_t size) noexcept nogil:
    return (size + 63) // 64 * 64


cdef class Workspace:
    """Scratch memory of one forward pass: grows to what is asked for, and is used again.

    Not to be shared by two calls at once.
    """

    def __cinit__(self):
        self.start = NULL
        self.size = 0

    cdef int ensure(self, size_t size) except -1:
        """Make room for `size` bytes, aligned to a cache line; what was there is lost."""
        cdef unsigned char[::1] view
        if size > self.size:
            # Not even for a moment does `start` point to memory that is gone: the allocation may fail.
            self.start, self.size, self._memory = NULL, 0, None
            self._memory = np.empty(size + CACHE_LINE, dtype=np.uint8)
            view = self._memory
            self.start = <char *>((<size_t>&view[0] + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE)
            self.size = size
        return 0


cdef class Matrix:
    """A weight matrix (outputs, inputs) in any storage; the numbers are neither copied nor changed.

    Parameters
    ----------
    array : numpy.ndarray
        Shape (rows, cols), C-contiguous, of the array dtype of `dtype` (uint16 for bf16); may be read-only
        and memory-mapped.
    dtype : {"f32", "f16", "bf16", "f64"}
        Storage type. An f64 matrix takes float64 activations, the others float32.
    scale : float, default 1.0
        Every product is multiplied by it; a power of two costs no precision.

    Raises
    ------
    KernelError
        If the array is not of that shape, layout and type.
    """

    def __init__(self, array, dtype, scale=1.0):
        if dtype not in _CODES:
            raise KernelError(f"Matrix: expected a dtype of {', '.join(_CODES)}, got {dtype!r}")
        if array.ndim != 2 or not array.flags.c_contiguous or not array.flags.aligned:
            raise KernelError(f"Matrix: expected a contiguous, aligned array (rows, cols), got shape {array.shape}")
        if array.dtype != STORAGE_TYPES[dtype].array_dtype:
            raise KernelError(
                f"Matrix: expected {STORAGE_TYPES[dtype].array_dtype} for {dtype}, got {array.dtype}"
            )
        self.array = array
        self.dtype = dtype
        self.double_precision = dtype == "f64"
        self.m.data = <const void *><size_t>array.ctypes.data
        self.m.rows = array.shape[0]
        self.m.cols = array.shape[1]
        self.m.dtype = _CODES[dtype]
        self.m.scale = scale

    @property
    def shape(self):
        """(rows, cols): outputs and inputs."""
        return self.m.rows, self.m.cols

    @property
    def scale(self):
        """What every product is multiplied by."""
        return self.m.scale

    cdef size_t scratch_bytes(self, const rk_ops *ops, Py_ssize_t tokens, int num_threads) noexcept nogil:
        return matmul_scratch(ops, 8 if self.double_precision else 4, tokens, self.m.cols, num_threads)

    cdef void matmul_nogil(self, const rk_ops *ops, const void *x, Py_ssize_t tokens, void *scratch, int num_threads,
                           void *y) noexcept nogil:
        matmul(ops, 8 if self.double_precision else 4, &self.m, x, tokens, scratch, num_threads, y)

    def matmul(self, const floating[:, ::1] x, int num_threads=1, Workspace workspace=None):
        """Multiply tokens by the matrix.

        Parameters
        ----------
        x : numpy.ndarray
            Shape (tokens, cols); float64 for an f64 matrix, else float32.
        num_threads : int, default 1
            Threads to use; the result is the same for every number.
        workspace : Workspace, optional
            Scratch memory to use again.

        Returns
        -------
        numpy.ndarray
            Shape (tokens, rows): ``scale * x @ matrix.T``. Each row is the same, to the last bit, however
            many tokens are multiplied at once.

        Raises
        ------
        KernelError
            If `x` has another width or type.
        """
        cdef bint double_precision = sizeof(floating) == 8
        if double_precision != self.double_precision:
            wanted = "float64" if self.double_precision else "float32"
            raise KernelError(f"Matrix.matmul: expected {wanted} activations for {self.dtype} weights")
        if x.shape[1] != self.m.cols:
            raise KernelError(f"Matrix.matmul: expected (tokens, {self.m.cols}), got ({x.shape[0]}, {x.shape[1]})")
        if num_threads < 1:
            raise KernelError(f"Matrix.matmul: expected at least one thread, got {num_threads}")
        result = np.empty((x.shape[0], self.m.rows), dtype=np.float64 if double_precision else np.float32)
        if result.size == 0:
            return result
        if self.m.cols == 0:
            result[...] = 0
            return result
        cdef floating[:, ::1] y = result
        cdef const rk_ops *ops = active_ops(double_precision)
        if workspace is None:
            workspace = Workspace()
        workspace.ensure(self.scratch_bytes(ops, x.shape[0], num_threads))
        with nogil:
            self.matmul_nogil(ops, &x[0, 0], x.shape[0], workspace.start, num_threads, &y[0, 0])
        return result
