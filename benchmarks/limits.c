/* The machine's limits, independent of the package's kernels: ./limits THREADS prints fp32 FMA in GFLOP/s, and the
   same of bf16 dot products, 0 where the CPU has none. Vectors are as wide as -march=native has them. ./limits cores
   prints how many nanoseconds a cache line takes from one core to another; 0 where there is one core. */

#define _GNU_SOURCE
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif
#include <omp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef __AVX512F__
#define WIDTH 64
#else
#define WIDTH 32
#endif

typedef float floats __attribute__((vector_size(WIDTH)));

#define CHAINS 12 /* independent sums: more than latency times throughput of an FMA */
#define STEPS 4000000L
#define ROUNDS 5
#define EXCHANGES 20000L

static volatile float used;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void multiply_and_add(int threads) {
#pragma omp parallel num_threads(threads)
    {
        floats sums[CHAINS] = {{0}}, factor = {0}, term = {0};
        /* Hides from the compiler that they are all equal. */
        __asm__ volatile("" : "+m"(factor), "+m"(term));
        for (int i = 0; i < CHAINS; i++) __asm__ volatile("" : "+m"(sums[i]));
        for (long step = 0; step < STEPS; step++)
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * factor + term;
        for (int i = 1; i < CHAINS; i++) sums[0] += sums[i];
        used = sums[0][0];
    }
}

/* Returns the number of operations in one step of all chains. */
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
        used = sums[0][0];
    }
    return 4.0 * CHAINS * 16;
#else
    (void)threads;
    return 0;
#endif
}

/* Two threads add to one number in turn. */
static double exchange(void) {
    static _Atomic long number;
    double took = 0;
    atomic_store(&number, -2); /* both have started when it is 0 */
#pragma omp parallel num_threads(2)
    {
        const long own = omp_get_thread_num();
        atomic_fetch_add(&number, 1);
        while (atomic_load(&number) < 0) continue;
        const double start = now();
        for (long i = own; i < EXCHANGES; i += 2) {
            while (atomic_load(&number) != i) continue;
            atomic_store(&number, i + 1);
        }
        if (own == 0) took = now() - start;
    }
    return took / EXCHANGES * 1e9;
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "cores")) {
        /* On one core, each thread would wait for the other until its time slice ends. */
        const int alone = omp_get_num_procs() < 2 || omp_get_thread_limit() < 2;
        double best = alone ? 0 : 1e9;
        for (int round = 0; round < ROUNDS && !alone; round++) {
            const double one = exchange();
            best = one < best ? one : best;
        }
        printf("%.0f\n", best);
        return 0;
    }
    const int threads = argc > 1 ? atoi(argv[1]) : 1;
    if (threads < 1) return 1;
    double computing = 1e9, products = 1e9, operations = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double start = now();
        multiply_and_add(threads);
        double middle = now();
        operations = multiply_bf16(threads);
        double end = now();
        if (middle - start < computing) computing = middle - start;
        if (end - middle < products) products = end - middle;
    }
    const double flops = 2.0 * CHAINS * STEPS * (WIDTH / sizeof(float)) * threads;
    printf("%.1f %.1f\n", flops / computing * 1e-9, operations * STEPS * threads / products * 1e-9);
    return 0;
}
