/* Everything from here to target_end.h may use NEON with products of matrices of bytes (I8MM). cpu.c calls none of it unless the CPU
 * supports that. */
#include <arm_neon.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("i8mm"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+i8mm")
#endif
