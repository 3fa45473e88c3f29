/* Interface of levels.c: quantization to levels that are not evenly spaced (q4n). */
#ifndef RK_LEVELS_H
#define RK_LEVELS_H

#include "codec/quant.h"

/* Quantize float weights [rows, cols] to groups of q4n; `out` is zeros before. `importance` as in rk_quantize. */
void rk_quantize_levels(const float *w, ptrdiff_t rows, ptrdiff_t cols, const float *importance, void *out);

/* The weights of the squared errors of a block of `width` columns, of which the matrix has `count`, from those of its
 * columns (NULL if all are equal). Where all are zero, all are equal; padding repeats the last one. */
static inline void rk_block_importance(const float *columns, ptrdiff_t count, ptrdiff_t width, float *weight)
{
    float sum = 0;
    for (ptrdiff_t i = 0; columns != NULL && i < count; i++) sum += columns[i];
    for (ptrdiff_t i = 0; i < width; i++) weight[i] = sum > 0 ? columns[i < count ? i : count - 1] : 1;
}

#endif
