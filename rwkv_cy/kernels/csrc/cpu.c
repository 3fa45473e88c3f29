/* Selection of kernels for this CPU: instruction sets, and the kernel families that each provides. */
#include "rk.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

enum { FLOATS, QUANTIZED, BF16, FAMILIES };

/* An instruction set, its CPU test and its kernels. A family that it does not provide comes from the next lower
 * instruction set that this CPU supports. */
typedef struct {
    const char *name;
    int (*runs)(void);
    void (*families[FAMILIES])(rk_table *table);
} level;

static int any_cpu(void) { return 1; }

#if defined(__x86_64__)
/* __builtin_cpu_supports also checks that the operating system saves the registers. */
static int has_avx2(void)
{
    unsigned int a, b, c = 0, d;
    /* Not every compiler accepts "f16c" here. */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) &&
           (c & bit_F16C);
}

static int has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static int has_avx512vnni(void) { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }

static int has_avx512bf16(void) { return has_avx512vnni() && __builtin_cpu_supports("avx512bf16"); }
#endif

/* Best first. */
static const level levels[] = {
#if defined(__x86_64__)
    {"avx512bf16", has_avx512bf16, {[BF16] = rk_bf16_avx512}},
    {"avx512vnni", has_avx512vnni, {[QUANTIZED] = rk_quantized_avx512vnni}},
    {"avx512", has_avx512, {[FLOATS] = rk_floats_avx512}},
    {"avx2", has_avx2, {[FLOATS] = rk_floats_avx2, [QUANTIZED] = rk_quantized_avx2}},
#endif
#if defined(__aarch64__)
    {"neon", any_cpu, {[FLOATS] = rk_floats_neon, [QUANTIZED] = rk_quantized_neon}},
#endif
    {"portable", any_cpu, {[FLOATS] = rk_floats_portable, [QUANTIZED] = rk_quantized_portable}},
};

enum { LEVELS = sizeof levels / sizeof *levels };

const char *rk_built(int i) { return i < LEVELS ? levels[i].name : NULL; }

/* Fill in the table of ours[first]; `ours` are the `count` instruction sets that this CPU supports, best first. */
static void compose(rk_table *table, const level *const *ours, int first, int count)
{
    table->name = ours[first]->name;
    rk_doubles(table);
    for (int family = 0; family < FAMILIES; family++) {
        int i = first;
        while (i < count && ours[i]->families[family] == NULL) i++;
        if (i < count) ours[i]->families[family](table);
    }
}

const rk_table *rk_available(int i)
{
    /* Filled in by the first call and constant from then on. */
    static rk_table tables[LEVELS];
    static int count = 0;
    if (count == 0) {
        const level *ours[LEVELS];
        int supported = 0;
#if defined(__x86_64__)
        __builtin_cpu_init();
#endif
        for (int l = 0; l < LEVELS; l++)
            if (levels[l].runs()) ours[supported++] = &levels[l];
        for (int l = 0; l < supported; l++) compose(&tables[l], ours, l, supported);
        count = supported;
    }
    return i < count ? &tables[i] : NULL;
}
