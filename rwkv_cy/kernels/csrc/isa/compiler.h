/* Instruction sets that not every supported compiler knows. */
#ifndef RK_COMPILER_H
#define RK_COMPILER_H

/* AVX-VNNI, and AMX with the call by which Linux grants it: since gcc 11 and clang 12. */
#if !defined(RK_KNOWS_AVXVNNI)
#if defined(__clang__)
#define RK_KNOWS_AVXVNNI (__clang_major__ >= 12)
#else
#define RK_KNOWS_AVXVNNI (__GNUC__ >= 11)
#endif
#endif
#if !defined(RK_KNOWS_AMX)
#if defined(__linux__)
#define RK_KNOWS_AMX RK_KNOWS_AVXVNNI
#else
#define RK_KNOWS_AMX 0
#endif
#endif

/* ARM's products of bytes and of bf16, for single functions: since gcc 10, clang 16 and the clang of Xcode 15. */
#if !defined(RK_KNOWS_ARM_PRODUCTS)
#if defined(__apple_build_version__)
#define RK_KNOWS_ARM_PRODUCTS (__clang_major__ >= 15)
#elif defined(__clang__)
#define RK_KNOWS_ARM_PRODUCTS (__clang_major__ >= 16)
#else
#define RK_KNOWS_ARM_PRODUCTS (__GNUC__ >= 10)
#endif
#endif

#endif
