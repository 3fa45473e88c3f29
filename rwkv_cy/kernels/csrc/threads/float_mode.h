/* The floating point mode of kernels: round to nearest, no traps, and subnormal numbers count as zero.
 *
 * One operand or result that is subnormal costs a product many times its time on most CPUs, and numbers below 1.2e-38
 * change no logit. The mode belongs to a thread, so rk_parallel sets it around the bodies of a job: results do not
 * depend on the mode of the calling thread, and that mode, with its exception flags, is as before afterwards.
 * Conversions from float16 are exact in this mode: its subnormal numbers are normal in float32. */
#ifndef RK_FLOAT_MODE_H
#define RK_FLOAT_MODE_H

#if defined(__x86_64__)

#include <xmmintrin.h>

typedef unsigned int rk_float_mode;

static inline rk_float_mode rk_enter_float_mode(void)
{
    const rk_float_mode before = _mm_getcsr();
    /* All exceptions masked, flush to zero (bit 15), denormals are zero (bit 6). */
    _mm_setcsr(0x1f80u | 1u << 15 | 1u << 6);
    return before;
}

static inline void rk_leave_float_mode(rk_float_mode before) { _mm_setcsr(before); }

#elif defined(__aarch64__)

#include <stdint.h>

/* FPCR, which has the modes, and FPSR, which has the exception flags. */
typedef struct {
    uint64_t control, status;
} rk_float_mode;

static inline rk_float_mode rk_enter_float_mode(void)
{
    rk_float_mode before;
    __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(before.control), "=r"(before.status) : : "memory");
    /* FZ, for operands and results; half precision has a bit of its own. */
    __asm__ volatile("msr fpcr, %0" : : "r"(UINT64_C(1) << 24) : "memory");
    return before;
}

static inline void rk_leave_float_mode(rk_float_mode before)
{
    __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(before.control), "r"(before.status) : "memory");
}

#else

typedef int rk_float_mode;

static inline rk_float_mode rk_enter_float_mode(void) { return 0; }

static inline void rk_leave_float_mode(rk_float_mode before) { (void)before; }

#endif

#endif
