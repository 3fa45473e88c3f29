"""CRC-32 as zlib computes it, by carry-less products where the processor has them: as fast as the caches read."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t

import zlib

cdef extern from *:
    """
    #include <stdint.h>
    #if defined(__x86_64__)
    #include <immintrin.h>

    static int rk_can_fold(void) { return __builtin_cpu_supports("pclmul"); }

    /* x * k over GF(2), the halves of x by the halves of k, and the sum of both with the bytes that follow. */
    __attribute__((target("pclmul")))
    static inline __m128i rk_fold_into(__m128i x, __m128i k, __m128i next) {
        __m128i low = _mm_clmulepi64_si128(x, k, 0x00), high = _mm_clmulepi64_si128(x, k, 0x11);
        return _mm_xor_si128(_mm_xor_si128(low, high), next);
    }

    /* Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction" (Intel, 2009): 16 bytes
       that leave the same remainder as `crc` and all of `data`. Four chains of products hide the latency of each.
       `size`: a multiple of 64, and not 0. */
    __attribute__((target("pclmul")))
    static void rk_fold(const unsigned char *data, Py_ssize_t size, uint32_t crc, unsigned char *result) {
        /* x^(512+32), x^(512-32), x^(128+32) and x^(128-32) modulo the polynomial, bits reversed as all else is. */
        const __m128i by_64 = _mm_set_epi64x(0x1c6e41596, 0x154442bd4);
        const __m128i by_16 = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
        const __m128i *next = (const __m128i *)data, *end = (const __m128i *)(data + size);
        __m128i x[4];
        for (int i = 0; i < 4; i++)
            x[i] = _mm_loadu_si128(next + i);
        x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128((int)~crc));
        for (next += 4; next < end; next += 4)
            for (int i = 0; i < 4; i++)
                x[i] = rk_fold_into(x[i], by_64, _mm_loadu_si128(next + i));
        for (int i = 1; i < 4; i++)
            x[0] = rk_fold_into(x[0], by_16, x[i]);
        _mm_storeu_si128((__m128i *)result, x[0]);
    }
    #else
    static int rk_can_fold(void) { return 0; }
    static void rk_fold(const unsigned char *data, Py_ssize_t size, uint32_t crc, unsigned char *result) {
        (void)data; (void)size; (void)crc; (void)result;
    }
    #endif
    """
    bint rk_can_fold() nogil
    void rk_fold(const unsigned char *data, Py_ssize_t size, uint32_t crc, unsigned char *result) nogil

#: Whether this processor can; zlib does it all where it cannot. Tests set it.
uses_products = rk_can_fold()
#: Fewer bytes than this are zlib's.
_LEAST = 1024


def crc32(data, uint32_t value=0):
    """Return what ``zlib.crc32(data, value)`` returns.

    Parameters
    ----------
    data : bytes-like
        Contiguous.
    value : int
        CRC-32 of the bytes before.
    """
    cdef Py_buffer view
    cdef Py_ssize_t size
    cdef unsigned char folded[16]
    if not uses_products or memoryview(data).nbytes < _LEAST:
        return zlib.crc32(data, value)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        size = view.len // 64 * 64
        with nogil:
            rk_fold(<const unsigned char *>view.buf, size, value, folded)
        # zlib inverts the value before and after: from all ones on, it takes the 16 bytes as they are.
        value = zlib.crc32(folded[:16], 0xFFFFFFFF)
        return zlib.crc32((<const unsigned char *>view.buf)[size:view.len], value)
    finally:
        PyBuffer_Release(&view)
