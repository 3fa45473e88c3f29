"""Read-only memory maps of files that may be truncated, or fail, while something reads from them.

The kernel answers a read from a page that it cannot provide with SIGBUS, which ends the process. The handler here
replaces such pages by zeros if they belong to one of these maps, and marks the map as damaged; everything else is left
to the handler before it.
"""

import os

cdef extern from *:
    """
    #include <errno.h>
    #include <pthread.h>
    #include <signal.h>
    #include <stdatomic.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <unistd.h>

    #ifndef MAP_ANONYMOUS
    #define MAP_ANONYMOUS MAP_ANON
    #endif

    #define RK_MAPS 1024

    /* Whoever sets `taken` alone changes the entry. The handler takes no lock, and may run in one thread while another
       changes an entry: start and end belong together only if `version` is even, and the same before and after they are
       read. */
    static struct {
        atomic_flag taken;
        _Atomic uintptr_t start, end;
        atomic_uint version;
        atomic_int damaged;
    } rk_maps[RK_MAPS];

    static struct sigaction rk_before;
    static uintptr_t rk_page;

    static void rk_on_sigbus(int number, siginfo_t *info, void *context)
    {
        int saved = errno;
        uintptr_t at = (uintptr_t)info->si_addr;
        /* A positive code comes from the kernel: a fault, not a signal that a process sent. */
        for (int i = 0; i < RK_MAPS && info->si_code > 0; i++) {
            unsigned version = atomic_load(&rk_maps[i].version);
            uintptr_t start = atomic_load(&rk_maps[i].start), end = atomic_load(&rk_maps[i].end);
            if (start == 0 || at < start || at >= end)
                continue;
            if (version % 2 || atomic_load(&rk_maps[i].version) != version)
                continue; /* not the map that is read, which nobody removes meanwhile */
            uintptr_t page = at & ~(rk_page - 1);
            atomic_store(&rk_maps[i].damaged, 1);
            if (mmap((void *)page, end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
                break;
            errno = saved;
            return;
        }
        errno = saved;
        if (rk_before.sa_flags & SA_SIGINFO) {
            rk_before.sa_sigaction(number, info, context);
        } else if (rk_before.sa_handler != SIG_DFL && rk_before.sa_handler != SIG_IGN) {
            rk_before.sa_handler(number);
        } else if (info->si_code > 0) {
            signal(number, SIG_DFL); /* the read is repeated, and ends the process as it would have */
        } else if (rk_before.sa_handler == SIG_DFL) {
            signal(number, SIG_DFL);
            raise(number); /* when the handler returns */
        }
    }

    static int rk_refused; /* errno of the installation */

    static void rk_install_once(void)
    {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_sigaction = rk_on_sigbus;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigemptyset(&action.sa_mask);
        rk_page = (uintptr_t)sysconf(_SC_PAGESIZE);
        rk_refused = sigaction(SIGBUS, &action, &rk_before) ? errno : 0;
    }

    static int rk_install(void)
    {
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        pthread_once(&once, rk_install_once);
        errno = rk_refused;
        return rk_refused;
    }

    static void rk_set(int i, uintptr_t start, uintptr_t end)
    {
        atomic_fetch_add(&rk_maps[i].version, 1);
        atomic_store(&rk_maps[i].start, start);
        atomic_store(&rk_maps[i].end, end);
        atomic_fetch_add(&rk_maps[i].version, 1);
    }

    static int rk_enter(void *start, size_t size)
    {
        for (int i = 0; i < RK_MAPS; i++) {
            if (atomic_flag_test_and_set(&rk_maps[i].taken))
                continue;
            atomic_store(&rk_maps[i].damaged, 0);
            rk_set(i, (uintptr_t)start, (uintptr_t)start + size);
            return i;
        }
        return -1;
    }

    static void rk_remove(int i)
    {
        rk_set(i, 0, 0);
        atomic_flag_clear(&rk_maps[i].taken);
    }

    static int rk_damaged(int i)
    {
        return atomic_load(&rk_maps[i].damaged);
    }

    static void *rk_map(int descriptor, size_t size, long long offset)
    {
        void *start = mmap(NULL, size, PROT_READ, MAP_SHARED, descriptor, (off_t)offset);
        return start == MAP_FAILED ? NULL : start;
    }
    """
    int rk_install()
    int rk_enter(void *start, size_t size)
    void rk_remove(int i)
    int rk_damaged(int i)
    void *rk_map(int descriptor, size_t size, long long offset)
    int munmap(void *start, size_t size)
    int rk_errno "errno"

cdef extern from "Python.h":
    int PyBuffer_FillInfo(
        Py_buffer *view, object exporter, void *start, Py_ssize_t size, int readonly, int flags
    ) except -1


cdef class MappedFile:
    """A read-only memory map of `size` bytes of an open file, with the buffer protocol.

    Where the system cannot provide a page, because the file was truncated or its disk failed, the rest of the map
    becomes zeros, and :attr:`damaged` true. Whoever computes from the map has to look at it afterwards.

    Parameters
    ----------
    descriptor : int
        Of the file, which may be closed afterwards.
    size : int
        Positive; the file should have them.
    offset : int, default 0
        Of the first of them: a multiple of the size of a page.

    Raises
    ------
    OSError
        If the system cannot map the file.
    """

    cdef void *_start
    cdef Py_ssize_t _size
    cdef int _entry

    def __cinit__(self, int descriptor, Py_ssize_t size, long long offset=0):
        self._entry = -1
        if rk_install() != 0:
            raise OSError(rk_errno, os.strerror(rk_errno))
        self._start = rk_map(descriptor, size, offset)
        if self._start == NULL:
            raise OSError(rk_errno, os.strerror(rk_errno))
        self._size = size
        # With more maps than entries, the others are as any map.
        self._entry = rk_enter(self._start, size)

    @property
    def guarded(self):
        """Whether a missing page is noted instead of ending the process; false if a thousand others are guarded."""
        return self._entry >= 0

    @property
    def damaged(self):
        """Whether a page could not be provided, so that what was read from the map is wrong."""
        return self._entry >= 0 and rk_damaged(self._entry) != 0

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self._start, self._size, 1, flags)

    def __dealloc__(self):
        if self._entry >= 0:
            rk_remove(self._entry)
        if self._start != NULL:
            munmap(self._start, self._size)
