/* Transposed matrices [cols][rows]: what products.c needs of them. */
#ifndef RK_COLUMNS_H
#define RK_COLUMNS_H

#include "rk.h"

/* Of one lane's columns; with fewer, one thread takes them all. */
#define RK_LANE_BYTES ((ptrdiff_t)8 << 10)

/* Few tokens, by their nonzero inputs; the scratch that it takes. */
size_t rk_columns_scratch(const rk_ops *ops, const rk_matrix *m, ptrdiff_t tokens);
void rk_columns(const rk_ops *ops, const rk_matrix *m, const void *x, ptrdiff_t tokens, void *y, void *scratch,
                int threads);

#endif
