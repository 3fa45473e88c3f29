/* What the machine allows, without any of our kernels: ./limits THREADS prints read bandwidth in GB/s of 1 GiB,
   fp32 FMA in GFLOP/s, and the same of bf16 dot products, 0 where the CPU has none. Vectors are as wide as
   -march=native has them. */

#define _GNU_SOURCE
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
#define WIDTH 64
#else
#define WIDTH 32
#endif

typedef uint64_t words __attribute__((vector_size(WIDTH)));
typedef float floats __attribute__((vector_size(WIDTH)));

#define BYTES ((size_t)1 << 30)
#define CHAINS 12 /* independent sums: more than latency times throughput of an FMA */
#define STEPS 4000000L
#define ROUNDS 5

static volatile uint64_t used;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Each thread reads a share of its own, once. */
static void read_all(const words *data, int threads) {
    const size_t share = BYTES / sizeof(words) / (size_t)threads;
#pragma omp parallel num_threads(threads)
    {
        const words *from = data + share * (size_t)omp_get_thread_num();
        words a = {0}, b = {0}, c = {0}, d = {0};
        for (size_t i = 0; i + 4 <= share; i += 4) {
            a |= from[i];
            b |= from[i + 1];
            c |= from[i + 2];
            d |= from[i + 3];
        }
        a |= b | c | d;
        used = a[0];
    }
}

static void multiply_and_add(int threads) {
#pragma omp parallel num_threads(threads)
    {
        floats sums[CHAINS] = {{0}}, factor = {0}, term = {0};
        /* The compiler must not know that they are all the same. */
        __asm__ volatile("" : "+m"(factor), "+m"(term));
        for (int i = 0; i < CHAINS; i++) __asm__ volatile("" : "+m"(sums[i]));
        for (long step = 0; step < STEPS; step++)
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * factor + term;
        for (int i = 1; i < CHAINS; i++) sums[0] += sums[i];
        used = (uint64_t)sums[0][0];
    }
}

/* Returns the operations of a step, of all chains. */
static double multiply_bf16(int threads) {
#ifdef __AVX512BF16__
#pragma omp parallel num_threads(threads)
    {
        __m512 sums[CHAINS] = {{0}};
        __m512i factor = _mm512_setzero_si512(), term = _mm512_setzero_si512();
        __asm__ volatile("" : "+v"(factor), "+v"(term));
        for (long step = 0; step < STEPS; step++)
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++)
                sums[i] = _mm512_dpbf16_ps(sums[i], (__m512bh)factor, (__m512bh)term);
        for (int i = 1; i < CHAINS; i++) sums[0] += sums[i];
        used = (uint64_t)sums[0][0];
    }
    return 4.0 * CHAINS * 16;
#else
    (void)threads;
    return 0;
#endif
}

int main(int argc, char **argv) {
    const int threads = argc > 1 ? atoi(argv[1]) : 1;
    words *data = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED || threads < 1) return 1;
    madvise(data, BYTES, MADV_HUGEPAGE);
    for (size_t i = 0; i < BYTES / sizeof(words); i++) data[i] = (words){0} + i;
    double reading = 1e9, computing = 1e9, products = 1e9, operations = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double start = now();
        read_all(data, threads);
        double middle = now();
        multiply_and_add(threads);
        double end = now();
        operations = multiply_bf16(threads);
        double last = now();
        if (middle - start < reading) reading = middle - start;
        if (end - middle < computing) computing = end - middle;
        if (last - end < products) products = last - end;
    }
    const double flops = 2.0 * CHAINS * STEPS * (WIDTH / sizeof(float)) * threads;
    printf("%.2f %.1f %.1f\n", (double)BYTES / reading * 1e-9, flops / computing * 1e-9,
           operations * STEPS * threads / products * 1e-9);
    return 0;
}
