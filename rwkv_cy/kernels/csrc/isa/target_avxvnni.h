/* Everything from here to target_end.h may use AVX2 and AVX-VNNI. cpu.c calls none of it unless the CPU
 * supports that. */
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avxvnni")
#endif
