/* Numbers, matrices of every storage type, and failures, for tests of the kernels. */
#ifndef SAMPLES_H
#define SAMPLES_H

#include "codec/bf12.h"
#include "codec/quant.h"
#include "scalar.h"

#include <stdio.h>
#include <stdlib.h>

enum { ALIGNMENT = 64 };

static const char *const type_names[] = {"f32", "f64", "f16", "bf16", "q8", "q4", "bf12", "q6", "q4n"};
/* All types of matrices that are multiplied with floats. */
static const int types[] = {RK_F32, RK_F16, RK_BF16, RK_Q8, RK_Q6, RK_Q4, RK_Q4N, RK_BF12};
enum { TYPES = sizeof types / sizeof *types };

static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT);
    if (memory == NULL) exit(2);
    return memset(memory, 0, (bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT);
}

/* From -1 to 1, the same numbers on every machine. */
static float random_number(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (float)(int32_t)(state >> 32) * 0x1p-31f;
}

static float *random_array(ptrdiff_t n)
{
    float *array = allocate((size_t)n * sizeof(float));
    for (ptrdiff_t i = 0; i < n; i++) array[i] = random_number();
    return array;
}

static void fail(const char *level, const char *what, ptrdiff_t at, double expected, double got)
{
    printf("%s: %s: element %td: expected %.9g, got %.9g\n", level, what, at, expected, got);
    exit(1);
}

/* A weight matrix in one type, and its weights as the type has them. */
typedef struct {
    rk_matrix m;
    float *weights;
    void *data;
} sample;

static void pack_bf12(sample *s, const uint16_t *words)
{
    const ptrdiff_t rows = s->m.rows, cols = s->m.cols, capacity = rows * cols;
    const ptrdiff_t chunks = rk_bf12_at(cols, (rows + RK_BF12_ROWS - 1) / RK_BF12_ROWS * RK_BF12_ROWS, 0);
    uint8_t *data = s->data = allocate((size_t)(RK_BF12_HEAD + chunks + 4 * (rows + 1 + capacity)));
    long long counts[256] = {0}, *ends = allocate((size_t)rows * sizeof *ends);
    rk_bf12_count(words, capacity, counts);
    for (int i = 0; i < RK_BF12_TABLE; i++) {
        int best = 0;
        for (int e = 1; e < 256; e++) best = counts[e] > counts[best] ? e : best;
        data[i] = (uint8_t)best;
        counts[best] = -1 - i;
    }
    uint32_t *starts = (uint32_t *)(data + RK_BF12_HEAD + chunks);
    s->m.escapes = rk_bf12_pack(words, rows, cols, data, data + RK_BF12_HEAD, (uint16_t *)(starts + rows + 1), capacity,
                                ends);
    for (ptrdiff_t r = 0; r < rows; r++) starts[r + 1] = (uint32_t)ends[r];
    free(ends);
}

static sample make_sample(int dtype, ptrdiff_t rows, ptrdiff_t cols, int transposed, int rounded)
{
    const ptrdiff_t n = rows * cols;
    sample s = {{.rows = rows, .cols = cols, .dtype = dtype, .scale = 0.5, .transposed = transposed, .rounded = rounded},
                random_array(n), NULL};
    uint16_t *words = allocate((size_t)n * 2);
    if (rk_q_quantized(dtype)) {
        const ptrdiff_t groups = (rows + RK_Q_ROWS - 1) / RK_Q_ROWS;
        s.data = allocate((size_t)(groups * rk_q_blocks(dtype, cols) * rk_q_bytes(dtype)));
        rk_quantize(s.weights, rows, cols, dtype, NULL, s.data);
        rk_dequantize(s.data, rows, cols, dtype, s.weights);
    } else {
        for (ptrdiff_t i = 0; i < n; i++) {
            /* Some weights are subnormal in f16, and of a rare exponent in bf12. */
            float w = i % 7 == 3 ? s.weights[i] * 0x1p-18f : s.weights[i];
            words[i] = dtype == RK_F16 ? (uint16_t)((rk_f32_to_bits(w) >> 31 << 15) | (i % 7 == 3 ? 3 * i % 0x400 : 0x3000 + 5 * i % 0xc00))
                                       : rk_f32_to_bf16(w);
            if (dtype != RK_F32) w = dtype == RK_F16 ? rk_f16_to_f32(words[i]) : rk_bf16_to_f32(words[i]);
            s.weights[i] = w;
        }
        const size_t size = dtype == RK_F32 ? 4 : 2;
        const char *values = dtype == RK_F32 ? (const char *)s.weights : (const char *)words;
        if (dtype == RK_BF12) {
            pack_bf12(&s, words);
        } else {
            s.data = allocate((size_t)n * size);
            for (ptrdiff_t i = 0; i < n; i++) {
                const ptrdiff_t to = transposed ? i % cols * rows + i / cols : i;
                memcpy((char *)s.data + (size_t)to * size, values + (size_t)i * size, size);
            }
        }
    }
    free(words);
    s.m.data = s.data;
    return s;
}

#endif
