/* The floating point mode of kernels: whatever the mode of the caller, a job rounds to nearest and takes subnormal
 * numbers for zero, and afterwards the caller has its mode and its exception flags again. */
#include "rk.h"

#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>

/* Out of the compiler's sight: it would compute them itself. */
static volatile float tiny = 0x1p-140f, small = 0x1p-100f, one = 1.0f, bit = 0x1p-24f, huge = 0x1p120f;

typedef struct {
    float operand, result, rounded;
} numbers;

static void compute(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    numbers *n = context;
    (void)thread;
    for (ptrdiff_t i = begin; i < end; i++) {
        n[i].operand = tiny * huge;   /* 2^-20, unless the operand counts as zero */
        n[i].result = small * 0x1p-40f * huge; /* 2^-20 too, unless the first product does */
        n[i].rounded = one + bit;     /* half way to the next number: to even, which is 1 */
    }
}

static void expect(int holds, const char *what)
{
    if (holds) return;
    printf("float mode: expected %s\n", what);
    exit(1);
}

int main(void)
{
    static const int roundings[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    enum { ITEMS = 64 };
    for (size_t i = 0; i < sizeof roundings / sizeof *roundings; i++)
        for (int threads = 1; threads <= 3; threads++) {
            numbers found[ITEMS];
            fesetround(roundings[i]);
            feclearexcept(FE_ALL_EXCEPT);
            feraiseexcept(FE_DIVBYZERO);
            rk_parallel(ITEMS, 1, threads, compute, found);
            expect(fegetround() == roundings[i], "the caller's rounding after a job");
            expect(fetestexcept(FE_ALL_EXCEPT) == FE_DIVBYZERO, "the caller's exception flags after a job");
            expect(tiny * huge != 0, "subnormal operands after a job");
            for (int k = 0; k < ITEMS; k++) {
                expect(found[k].operand == 0, "subnormal operands to count as zero");
                expect(found[k].result == 0, "subnormal results to count as zero");
                expect(found[k].rounded == 1, "rounding to nearest");
            }
        }
    puts("float mode: that of kernels in jobs, that of the caller after them");
    return 0;
}
