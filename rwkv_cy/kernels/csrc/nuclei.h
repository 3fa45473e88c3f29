/* The nucleus (top-p) of distributions, found without sorting the vocabulary: the likeliest values that reach `top_p`
 * together, p = softmax(scale * values). */
#ifndef RK_NUCLEI_H
#define RK_NUCLEI_H

#include "rk.h"

typedef struct {
    const float *values; /* [n], at least one; those that are -inf or NaN have no probability */
    ptrdiff_t n;         /* up to RK_MOST_VALUES */
    double top_p;
    float scale;         /* positive */
    int keep_equals;     /* keep all values equal to the smallest that is kept, not just the first of them */
    int32_t *places;     /* [n]; receives the places of those that are kept, ascending */
    ptrdiff_t count;     /* receives their number; 0 if the largest is not finite */
    float largest;       /* receives the largest that is not NaN */
} rk_nucleus;

#define RK_MOST_VALUES (1 << 30) /* places are 32-bit integers */

/* Floats of scratch for rows of up to n values and so many threads. */
size_t rk_nuclei_scratch(ptrdiff_t n, int threads);

/* Find the nuclei of rows, in parallel. Subnormal values count as zero. scratch: for the longest row. */
void rk_find_nuclei(const rk_table *table, rk_nucleus *rows, ptrdiff_t count, float *scratch, int threads);

#endif
