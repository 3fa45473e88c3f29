"""Rounding of float32 to float16 and bfloat16, with the error measured in the same pass."""

import numpy as np

from rwkv_cy.errors import KernelError

from rwkv_cy.kernels.dispatch cimport RK_BF16, RK_F16, narrow, rk_narrowing

cdef dict _CODES = {"f16": RK_F16, "bf16": RK_BF16}


def narrow_f32(const float[::1] numbers, dtype):
    """Round numbers to nearest, ties to even; NaN stays NaN, and what is too large becomes infinite.

    Parameters
    ----------
    numbers : numpy.ndarray
        1-D, float32, fewer than 2**32.
    dtype : {"f16", "bf16"}

    Returns
    -------
    rounded : numpy.ndarray
        1-D, float16, or bfloat16 as uint16.
    nan, infinite : int
        NaN and Inf among `numbers`.
    overflowed : int
        Finite numbers that became infinite.
    largest, squared_error, squares : float
        Largest absolute error, sum of the squares of the errors and of the numbers; what is not finite is left out.

    Raises
    ------
    KernelError
        If `dtype` is another one, or there are too many numbers.
    """
    if dtype not in _CODES or numbers.shape[0] >= 1 << 32:
        raise KernelError(
            f"narrow_f32: expected fewer than 2**32 numbers and one of {', '.join(_CODES)}, "
            f"got {numbers.shape[0]} and {dtype!r}"
        )
    words = np.empty(numbers.shape[0], np.uint16)
    cdef unsigned short[::1] out = words
    cdef rk_narrowing sums = rk_narrowing(0, 0, 0, 0, 0, 0)
    if numbers.shape[0]:
        narrow(&numbers[0], numbers.shape[0], _CODES[dtype], &out[0], &sums)
    rounded = words.view(np.float16) if dtype == "f16" else words
    return rounded, sums.nan, sums.infinite, sums.overflowed, sums.largest, sums.squared_error, sums.squares
