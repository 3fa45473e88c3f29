"""Sequential reads of arrays, to measure the memory bandwidth that decode can use."""

import numpy as np

from rwkv_cy.errors import KernelError

from rwkv_cy.kernels.dispatch cimport read_pieces, rk_piece

cdef enum:
    # Long pieces suit the prefetchers.
    MOST_BYTES = 2 << 20
    LEAST_BYTES = 64 << 10
    # A short stream is divided so that every thread has a share.
    LEAST_PIECES = 64

_PIECE = np.dtype([("data", np.uintp), ("bytes", np.intp), ("sum", np.uint64)])


cdef class Stream:
    """Arrays to be read from the first byte to the last.

    Parameters
    ----------
    arrays : iterable of numpy.ndarray
        C-contiguous, of any type; they may be read-only and memory-mapped.

    Attributes
    ----------
    nbytes : int
        Total size in bytes.

    Raises
    ------
    KernelError
        If an array is not contiguous.
    """

    cdef readonly Py_ssize_t nbytes
    cdef object _arrays
    cdef object _pieces

    def __init__(self, arrays):
        self._arrays = tuple(arrays)
        self.nbytes = sum(array.nbytes for array in self._arrays)
        step = min(max(self.nbytes // LEAST_PIECES // 8 * 8, LEAST_BYTES), MOST_BYTES)
        pieces = []
        for array in self._arrays:
            if not array.flags.c_contiguous:
                raise KernelError(f"Stream: expected contiguous arrays, got one with strides {array.strides}")
            start = array.ctypes.data
            pieces += [(start + at, min(step, array.nbytes - at), 0) for at in range(0, array.nbytes, step)]
        self._pieces = np.array(pieces, dtype=_PIECE)

    def read(self, num_threads=1):
        """Read every byte once.

        Parameters
        ----------
        num_threads : int, default 1

        Returns
        -------
        int
            The sum of the 64-bit words modulo 2^64, in the machine's byte order; the last word of each array is
            zero-padded.

        Raises
        ------
        KernelError
            If `num_threads` is below 1.
        """
        if num_threads < 1:
            raise KernelError(f"Stream.read: expected at least one thread, got {num_threads}")
        # A copy per call, since several threads may use one Stream.
        pieces = self._pieces.copy()
        cdef size_t address = pieces.ctypes.data
        read_pieces(<rk_piece *>address, len(pieces), num_threads)
        return int(pieces["sum"].sum(dtype=np.uint64))
