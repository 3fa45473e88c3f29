"""The embedding: one row of the matrix for each token."""

import numpy as np

from rwkv_cy.dtypes import STORAGE_TYPES
from rwkv_cy.errors import KernelError

from cython cimport floating

from rwkv_cy.kernels.dispatch cimport RK_BF16, RK_F16, RK_F32, RK_F64

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


cdef class Embedding:
    """Rows of the embedding, converted to activations.

    Parameters
    ----------
    parameter : Parameter
        Shape (vocab_size, d_model), in one of STORAGE_TYPES; used without a copy if it is contiguous and aligned.
    real : {"f32", "f64"}
        Type of the activations.

    Raises
    ------
    KernelError
        If the parameter has another type, is not two-dimensional, or is transposed.
    """

    cdef object _array               # owns the memory that _data points to
    cdef const char *_data
    cdef Py_ssize_t _rows, _width, _row_bytes
    cdef int _code
    cdef object _dtype

    def __init__(self, parameter, real):
        if parameter.dtype not in _CODES or len(parameter.shape) != 2 or parameter.transposed:
            raise KernelError(
                f"Embedding: expected rows and columns of {', '.join(_CODES)}, not transposed, got {parameter.dtype} "
                f"of shape {parameter.shape}"
            )
        self._array = np.require(parameter.array, STORAGE_TYPES[parameter.dtype].array_dtype, "CA")
        self._data = <const char *><size_t>self._array.ctypes.data
        self._rows, self._width = self._array.shape
        self._row_bytes = self._width * self._array.itemsize
        self._code = _CODES[parameter.dtype]
        self._dtype = STORAGE_TYPES[real].array_dtype

    def rows(self, const long long[::1] ids not None):
        """Return the rows of tokens, shape (tokens, d_model).

        Raises
        ------
        KernelError
            If an id is not a row of the matrix.
        """
        result = np.empty((ids.shape[0], self._width), self._dtype)
        if ids.shape[0] and result.itemsize == sizeof(double):
            self._widen_all[double](ids, result)
        elif ids.shape[0]:
            self._widen_all[float](ids, result)
        return result

    cdef int _widen_all(self, const long long[::1] ids, floating[:, ::1] out) except -1:
        cdef Py_ssize_t i
        cdef long long row = 0
        with nogil:
            for i in range(ids.shape[0]):
                # Read once: another thread may modify the caller's array.
                row = ids[i]
                if not 0 <= row < self._rows:
                    break
                _widen(self._data + row * self._row_bytes, self._code, self._width, &out[i, 0])
        if not 0 <= row < self._rows:
            raise KernelError(f"Embedding: expected a row from 0 to {self._rows - 1}, got {row}")
        return 0
