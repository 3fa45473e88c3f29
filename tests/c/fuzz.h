/* What the fuzz targets share: an input that gives numbers and bytes, and memory of exactly the size that is needed, so
 * that AddressSanitizer sees every access outside. A target is an LLVMFuzzerTestOneInput, for libFuzzer or fuzz_driver.c;
 * a difference from the plain code beside it ends the process, and so does a limit of CPU time. */
#ifndef RK_FUZZ_H
#define RK_FUZZ_H

#include "rk.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>

enum { FUZZ_SECONDS = 20 }; /* CPU time of one input */

typedef struct {
    const uint8_t *at;
    size_t left;
    uint64_t state; /* of the numbers that follow the input */
} fuzz_input;

/* The next byte of the input, and after its end of a sequence that depends on it. */
static inline uint8_t fuzz_byte(fuzz_input *in)
{
    if (in->left) {
        in->left--;
        in->state = in->state * 6364136223846793005u + *in->at + 1442695040888963407u;
        return *in->at++;
    }
    in->state ^= in->state << 13, in->state ^= in->state >> 7, in->state ^= in->state << 17;
    return (uint8_t)(in->state >> 56);
}

static void fuzz_end(int number)
{
    static const char text[] = "fuzz: an execution took more CPU time than its limit\n";
    (void)number;
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0) _exit(1);
    abort();
}

static inline fuzz_input fuzz_begin(const uint8_t *data, size_t size)
{
    const struct itimerval limit = {.it_value = {.tv_sec = FUZZ_SECONDS}};
    signal(SIGPROF, fuzz_end);
    setitimer(ITIMER_PROF, &limit, NULL);
    return (fuzz_input){data, size, 88172645463325252u};
}

/* A number from 0 to most. */
static inline ptrdiff_t fuzz_number(fuzz_input *in, ptrdiff_t most)
{
    ptrdiff_t low = fuzz_byte(in), number = most < 256 ? low : low | fuzz_byte(in) << 8;
    return number % (most + 1);
}

/* A size from 1 to most: three times of four one up to few, since a small input runs in a fraction of the time. */
static inline ptrdiff_t fuzz_size(fuzz_input *in, ptrdiff_t few, ptrdiff_t most)
{
    const ptrdiff_t limit = fuzz_byte(in) & 3 ? few : most;
    return 1 + fuzz_number(in, limit - 1);
}

/* One of the kernel families of this CPU. */
static inline const rk_table *fuzz_family(fuzz_input *in)
{
    int count = 1;
    while (rk_available(count) != NULL) count++;
    return rk_available((int)fuzz_number(in, count - 1));
}

static inline void *fuzz_memory(size_t bytes)
{
    void *memory = NULL;
    if (posix_memalign(&memory, 64, bytes ? bytes : 1)) exit(2);
    return memory;
}

static inline void *fuzz_bytes(fuzz_input *in, size_t bytes)
{
    uint8_t *memory = fuzz_memory(bytes);
    for (size_t i = 0; i < bytes; i++) memory[i] = fuzz_byte(in);
    return memory;
}

/* n activations from -4 to 4. */
static inline float *fuzz_activations(fuzz_input *in, ptrdiff_t n)
{
    float *x = fuzz_memory((size_t)n * sizeof *x);
    for (ptrdiff_t i = 0; i < n; i++) x[i] = (float)(int8_t)fuzz_byte(in) / 32;
    return x;
}

/* y = m x for `tokens` tokens. */
static inline float *fuzz_product(const rk_ops *ops, const rk_matrix *m, const float *x, ptrdiff_t tokens)
{
    float *y = fuzz_memory((size_t)(tokens * m->rows) * sizeof *y);
    const rk_product p = {.m = m, .x = x, .stride = m->cols, .first = RK_AS_IT_IS, .y = y, .then = RK_NOTHING};
    const rk_tokens all = {tokens, NULL, 0};
    void *scratch = fuzz_memory(rk_matmul_scratch(ops, m, tokens, 1));
    rk_matmul(ops, &p, 1, &all, scratch, 1);
    free(scratch);
    return y;
}

static inline int fuzz_same(float a, float b) { return a == b || (a != a && b != b); }

static inline void fuzz_fail(const char *what, ptrdiff_t at, double expected, double got)
{
    fprintf(stderr, "%s: element %td: expected %.9g, got %.9g\n", what, at, expected, got);
    abort();
}

#endif
