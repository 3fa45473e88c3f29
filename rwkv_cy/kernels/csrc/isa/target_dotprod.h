/* Everything from here to target_end.h may use NEON with dot products of bytes. cpu.c calls none of it unless the CPU
 * supports that. */
#include <arm_neon.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
