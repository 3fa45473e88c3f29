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
#if defined(__aarch64__) && RK_KNOWS_ARM_PRODUCTS
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
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
enum { EAX, EBX, ECX, EDX };

#define BIT(n) (UINT32_C(1) << (n))

/* Whether CPUID reports all of the bits in a register. What __builtin_cpu_supports knows depends on the compiler's runtime
 * library: with zig's, no CPU has AVX2. */
static int reports(unsigned leaf, unsigned subleaf, int which, uint32_t bits)
{
    unsigned registers[4];
    return __get_cpuid_count(leaf, subleaf, &registers[EAX], &registers[EBX], &registers[ECX], &registers[EDX]) &&
           (registers[which] & bits) == bits;
}

/* The same of the second part of leaf 7, which older CPUs lack; bits of EAX. */
static int reports_more(uint32_t bits)
{
    unsigned subleaves, b, c, d;
    return __get_cpuid_count(7, 0, &subleaves, &b, &c, &d) && subleaves >= 1 && reports(7, 1, EAX, bits);
}

/* Whether the operating system saves the registers: bits of XCR0. */
static int system_saves(uint32_t bits)
{
    uint32_t low, high;
    if (!reports(1, 0, ECX, BIT(27))) return 0; /* OSXSAVE, without which xgetbv is an illegal instruction */
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & bits) == bits;
}

int rk_has_avx2(void)
{
    const uint32_t fma = BIT(12), avx = BIT(28), f16c = BIT(29), avx2 = BIT(5);
    return reports(1, 0, ECX, fma | avx | f16c) && reports(7, 0, EBX, avx2) && system_saves(BIT(1) | BIT(2));
}

static int is_intel(void)
{
    unsigned largest, b, c, d;
    return __get_cpuid(0, &largest, &b, &c, &d) && b == signature_INTEL_ebx;
}

static int has_avx512(void)
{
    const uint32_t f = BIT(16), dq = BIT(17), bw = BIT(30), vl = BIT(31);
    return rk_has_avx2() && reports(7, 0, EBX, f | dq | bw | vl) && system_saves(BIT(5) | BIT(6) | BIT(7));
}

static int has_avx512vnni(void) { return has_avx512() && reports(7, 0, ECX, BIT(11)); }

static int has_avx512bf16(void) { return has_avx512vnni() && reports_more(BIT(5)); }

#if RK_KNOWS_AVXVNNI
static int has_avxvnni(void) { return rk_has_avx2() && reports_more(BIT(4)); }
#endif

#if RK_KNOWS_AMX
enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

/* Tiles with int8 and bf16, whose registers the system saves and whose use it grants to this process: Linux has a thread ask
 * first, because the registers take 8 KiB more of each signal's frame. */
static int has_amx(void)
{
    const uint32_t bf16 = BIT(22), tiles = BIT(24), int8 = BIT(25);
    return has_avx512vnni() && reports(7, 0, EDX, bf16 | tiles | int8) && system_saves(BIT(17) | BIT(18)) &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#endif
#endif

#if defined(__aarch64__) && RK_KNOWS_ARM_PRODUCTS
/* Which extensions the CPU has and the system allows: bits of AT_HWCAP and AT_HWCAP2, which headers older than an
 * extension do not name, or a name that macOS has. Other systems are not asked. */
#if defined(__linux__)
enum { HWCAP = 16, HWCAP2 = 26 };

static int has_extension(unsigned long list, int bit, const char *name)
{
    (void)name;
    return (int)(getauxval(list) >> bit & 1);
}
#elif defined(__APPLE__)
enum { HWCAP, HWCAP2 };

static int has_extension(unsigned long list, int bit, const char *name)
{
    int value = 0;
    size_t size = sizeof value;
    (void)list, (void)bit;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value != 0;
}
#else
enum { HWCAP, HWCAP2 };

static int has_extension(unsigned long list, int bit, const char *name)
{
    (void)list, (void)bit, (void)name;
    return 0;
}
#endif

static int has_dotprod(void) { return has_extension(HWCAP, 20, "hw.optional.arm.FEAT_DotProd"); }

static int has_i8mm(void) { return has_extension(HWCAP2, 13, "hw.optional.arm.FEAT_I8MM"); }

static int has_neonbf16(void) { return has_extension(HWCAP2, 14, "hw.optional.arm.FEAT_BF16"); }
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
    {"avx2", rk_has_avx2, {[RK_FLOATS] = rk_floats_avx2, [RK_QUANTIZED] = rk_quantized_avx2}},
#endif
#if defined(__aarch64__)
#if RK_KNOWS_ARM_PRODUCTS
    {"neonbf16", has_neonbf16, {[RK_BF16_PRODUCTS] = rk_bf16_neon}},
    {"i8mm", has_i8mm, {[RK_INT8_TILES] = rk_int8_i8mm}},
    {"dotprod", has_dotprod, {[RK_QUANTIZED] = rk_quantized_dotprod, [RK_INT8_TILES] = rk_int8_dotprod}},
#endif
    {"neon", any_cpu, {[RK_FLOATS] = rk_floats_neon, [RK_QUANTIZED] = rk_quantized_neon, [RK_INT8_TILES] = rk_int8_neon}},
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
#if defined(__aarch64__) && !RK_KNOWS_ARM_PRODUCTS
    "neonbf16", "i8mm", "dotprod",
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
    if (rk_available(1) != NULL && !strcmp(rk_available(0)->name, "avx512bf16") && is_intel()) i++;
#endif
    return i;
}
