/* Interface of columns.c: products with transposed matrices [cols][rows]. */
#ifndef RK_COLUMNS_H
#define RK_COLUMNS_H

#include "rk.h"

/* Smallest part of a matrix per lane, in bytes, that is worth a thread. */
#define RK_LANE_BYTES ((ptrdiff_t)8 << 10)

/* Product with a few tokens that reads only the columns of non-zero inputs, and its scratch size. */
size_t rk_columns_scratch(const rk_ops *ops, const rk_matrix *m, ptrdiff_t tokens);
void rk_columns(const rk_ops *ops, const rk_matrix *m, const void *x, ptrdiff_t tokens, void *y, void *scratch,
                int threads);

#endif
