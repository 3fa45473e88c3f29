"""Tables of tokens, such as the embedding: one row of the matrix for each token."""

import numpy as np

from rwkv_cy.dtypes import STORAGE_TYPES
from rwkv_cy.errors import KernelError

from cython cimport floating

from rwkv_cy.kernels.dispatch cimport RK_BF16, RK_F16, RK_F32, RK_F64, prefetch_rows

cdef extern from "scalar.h" nogil:
    float rk_bf16_to_f32(unsigned short)
    float rk_f16_to_f32(unsigned short)


cdef dict _CODES = {"f32": RK_F32, "f64": RK_F64, "f16": RK_F16, "bf16": RK_BF16}


cdef void _widen(const char *row, int code, Py_ssize_t width, floating *out) noexcept nogil:
    cdef Py_ssize_t i
    if code == RK_F32:
        for i in range(width):
            out[i] = (<const float *>row)[i]
    elif code == RK_F64:
        for i in range(width):
            out[i] = <floating>(<const double *>row)[i]
    elif code == RK_F16:
        for i in range(width):
            out[i] = rk_f16_to_f32((<const unsigned short *>row)[i])
    else:
        for i in range(width):
            out[i] = rk_bf16_to_f32((<const unsigned short *>row)[i])


cdef int check_ids(str what, const long long *ids, Py_ssize_t count, Py_ssize_t rows) except -1:
    cdef Py_ssize_t i
    for i in range(count):
        if not 0 <= ids[i] < rows:
            raise KernelError(f"{what}: expected a row from 0 to {rows - 1}, got {ids[i]}")
    return 0


cdef class Embedding:
    """Rows of a table, the embedding or another one, converted to activations.

    Parameters
    ----------
    parameter : Parameter
        Shape (vocab_size, width), in one of STORAGE_TYPES; used without a copy if it is contiguous and aligned.
    real : {"f32", "f64"}
        Type of the activations.

    Raises
    ------
    KernelError
        If the parameter has another type, is not two-dimensional, or is transposed.
    """

    def __init__(self, parameter, real):
        if parameter.dtype not in _CODES or len(parameter.shape) != 2 or parameter.transposed:
            raise KernelError(
                f"Embedding: expected rows and columns of {', '.join(_CODES)}, not transposed, got {parameter.dtype} "
                f"of shape {parameter.shape}"
            )
        self._array = np.require(parameter.array, STORAGE_TYPES[parameter.dtype].array_dtype, "CA")
        self._data = <const char *><size_t>self._array.ctypes.data
        self.vocab_size, self.width = self._array.shape
        self._row_bytes = self.width * self._array.itemsize
        self._code = _CODES[parameter.dtype]
        self._double_precision = real == "f64"

    def rows(self, const long long[::1] ids not None):
        """Return the rows of tokens, shape (tokens, d_model).

        Raises
        ------
        KernelError
            If an id is not a row of the matrix.
        """
        # A copy, since another thread may modify the caller's array.
        cdef const long long[::1] own = np.array(ids, np.int64)
        result = np.empty((own.shape[0], self.width), np.float64 if self._double_precision else np.float32)
        cdef char *out = <char *><size_t>result.ctypes.data
        if result.size:
            check_ids("Embedding", &own[0], own.shape[0], self.vocab_size)
            with nogil:
                self.write(&own[0], own.shape[0], out)
        return result

    cdef void prefetch(self, const long long *ids, Py_ssize_t count) noexcept nogil:
        prefetch_rows(self._data, self._row_bytes, ids, count)

    cdef void write(self, const long long *ids, Py_ssize_t count, char *out) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(count):
            if self._double_precision:
                _widen(self._data + ids[i] * self._row_bytes, self._code, self.width, <double *>out + i * self.width)
            else:
                _widen(self._data + ids[i] * self._row_bytes, self._code, self.width, <float *>out + i * self.width)
