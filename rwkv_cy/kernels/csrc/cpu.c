/* Which instruction sets this build has, and which of them this CPU can run. */
#include "rk.h"

const char *rk_built(int i)
{
    static const char *const names[] = {
#if defined(__x86_64__)
        "avx512bf16", "avx512vnni", "avx512", "avx2",
#endif
#if defined(__aarch64__)
        "neon",
#endif
        "portable",
    };
    return i < (int)(sizeof names / sizeof *names) ? names[i] : NULL;
}

const rk_table *rk_available(int i)
{
    const rk_table *tables[6];
    int n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    /* The compiler's runtime asks XGETBV too: the system must save the registers. */
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16"))
            tables[n++] = &rk_table_avx512bf16;
        if (__builtin_cpu_supports("avx512vnni")) tables[n++] = &rk_table_avx512vnni;
        tables[n++] = &rk_table_avx512;
    }
    /* F16C came before AVX2 on every CPU that has AVX2; older compilers cannot ask for it by name. */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) tables[n++] = &rk_table_avx2;
#endif
#if defined(__aarch64__)
    tables[n++] = &rk_table_neon;
#endif
    tables[n++] = &rk_table_portable;
    return i < n ? tables[i] : NULL;
}
