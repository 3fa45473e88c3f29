/* Interface of columns.c: products with transposed matrices [cols][rows]. */
#ifndef RK_COLUMNS_H
#define RK_COLUMNS_H

#include "rk.h"

/* Columns of one lane from which on threads share them. */
#define RK_LANE_BYTES ((ptrdiff_t)8 << 10)

/* Product of a few tokens by their non-zero inputs, and its scratch size. */
size_t rk_columns_scratch(const rk_ops *ops, const rk_matrix *m, ptrdiff_t tokens);
void rk_columns(const rk_ops *ops, const rk_matrix *m, const void *x, ptrdiff_t tokens, void *y, void *scratch,
                int threads);

#endif
