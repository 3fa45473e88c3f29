"""The system call that begins to write a file out to its disk and does not wait for it."""

from libc.errno cimport errno

import os

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #ifdef SYNC_FILE_RANGE_WRITE
    /* 0 bytes from 0 on: the whole file. */
    static int rk_begin_write_out(int descriptor) { return sync_file_range(descriptor, 0, 0, SYNC_FILE_RANGE_WRITE); }
    #else
    static int rk_begin_write_out(int descriptor) { (void)descriptor; errno = ENOSYS; return -1; }
    #endif
    """
    int rk_begin_write_out(int descriptor) nogil


def begin_write_out(int descriptor):
    """Have the system write out what it holds of a file in memory only; waits for no more than room in the queue.

    It makes nothing durable: metadata and the disk's own cache are left to fsync, which also tells of the writes that
    failed since the file was opened.

    Parameters
    ----------
    descriptor : int
        Of the open file.

    Raises
    ------
    OSError
        If the system cannot (ENOSYS where it has no such call), or the descriptor is no file's.
    """
    cdef int result, code
    with nogil:
        result = rk_begin_write_out(descriptor)
        code = errno
    if result != 0:
        raise OSError(code, os.strerror(code))
