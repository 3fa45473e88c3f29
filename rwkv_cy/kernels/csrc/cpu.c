/* Selection of kernels for this CPU: instruction sets, and the kernel families that each provides. */
#include "rk.h"
#include "isa/compiler.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if RK_KNOWS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

/* An instruction set, its CPU test and its kernels. A family that it does not provide comes from the next lower
 * instruction set that this CPU supports. */
typedef struct {
    const char *name;
    int (*runs)(void);
    void (*families[RK_FAMILIES])(rk_table *table);
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

#if RK_KNOWS_AVXVNNI
static int has_avxvnni(void)
{
    unsigned int subleaves, a, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 0, &subleaves, &b, &c, &d) && subleaves >= 1 &&
           __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

#if RK_KNOWS_AMX
enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

/* Tiles with int8 and bf16 (CPUID), whose registers the system saves (XCR0) and whose use it grants to this process: Linux
 * has a thread ask first, because the registers take 8 KiB more of each signal's frame. */
static int has_amx(void)
{
    unsigned int a, b, c, d, low, high;
    if (!has_avx512vnni() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (!(d >> 22 & 1) || !(d >> 24 & 1) || !(d >> 25 & 1)) return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low >> 17 & 3) == 3 && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#endif
#endif

/* Best first. */
static const level levels[] = {
#if defined(__x86_64__)
#if RK_KNOWS_AMX
    {"amx", has_amx, {[RK_BF16_PRODUCTS] = rk_bf16_amx, [RK_INT8_TILES] = rk_int8_amx}},
#endif
    {"avx512bf16", has_avx512bf16, {[RK_BF16_PRODUCTS] = rk_bf16_avx512}},
    {"avx512vnni", has_avx512vnni, {[RK_QUANTIZED] = rk_quantized_avx512vnni}},
    {"avx512", has_avx512, {[RK_FLOATS] = rk_floats_avx512}},
#if RK_KNOWS_AVXVNNI
    {"avxvnni", has_avxvnni, {[RK_QUANTIZED] = rk_quantized_avxvnni}},
#endif
    {"avx2", has_avx2, {[RK_FLOATS] = rk_floats_avx2, [RK_QUANTIZED] = rk_quantized_avx2}},
#endif
#if defined(__aarch64__)
    {"neon", any_cpu, {[RK_FLOATS] = rk_floats_neon, [RK_QUANTIZED] = rk_quantized_neon}},
#endif
    {"portable", any_cpu, {[RK_FLOATS] = rk_floats_portable, [RK_QUANTIZED] = rk_quantized_portable}},
};

enum { LEVELS = sizeof levels / sizeof *levels };

static const char *const left_out[] = {
#if defined(__x86_64__) && !RK_KNOWS_AVXVNNI
    "avxvnni",
#endif
#if defined(__x86_64__) && defined(__linux__) && !RK_KNOWS_AMX
    "amx",
#endif
    NULL};

enum { LEFT_OUT = sizeof left_out / sizeof *left_out };

const char *rk_built(int i) { return i < LEVELS ? levels[i].name : NULL; }

const char *rk_left_out(int i) { return i < LEFT_OUT ? left_out[i] : NULL; }

/* Fill in the table of ours[first]; `ours` are the `count` instruction sets that this CPU supports, best first. */
static void compose(rk_table *table, const level *const *ours, int first, int count)
{
    table->name = ours[first]->name;
    rk_doubles(table);
    for (int family = 0; family < RK_FAMILIES; family++) {
        int i = first;
        while (i < count && ours[i]->families[family] == NULL) i++;
        if (i == count) continue;
        ours[i]->families[family](table);
        table->families[family] = ours[i]->name;
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

int rk_default(void)
{
    int i = 0;
#if defined(__x86_64__)
    /* Intel's CPUs multiply bf16 no faster than float32 by instructions of AVX-512, and the kernels were slower. */
    if (rk_available(1) != NULL && !strcmp(rk_available(0)->name, "avx512bf16") && __builtin_cpu_is("intel")) i++;
#endif
    return i;
}
