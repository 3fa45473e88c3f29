/* Everything from here to target_end.h may use NEON with products of matrices of bf16. cpu.c calls none of it unless the CPU
 * supports that. */
#include <arm_neon.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+bf16")
#endif
