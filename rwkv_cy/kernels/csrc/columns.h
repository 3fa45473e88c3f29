/* Transposed matrices [cols][rows]: what drive.c needs of them. */
#ifndef RK_COLUMNS_H
#define RK_COLUMNS_H

#include "rk.h"

/* Of one lane's columns; with fewer, one thread takes them all. */
#define RK_LANE_BYTES ((ptrdiff_t)8 << 10)
/* Rows that are transposed together for `panels`: whole panels on every instruction set. */
#define RK_STRIP_ROWS 48

/* Fewer than RK_PACK_TOKENS tokens, by their nonzero inputs; the scratch that it takes. */
size_t rk_columns_scratch(const rk_ops *ops, const rk_matrix *m, ptrdiff_t tokens);
void rk_columns(const rk_ops *ops, const rk_matrix *m, const void *x, ptrdiff_t tokens, void *y, void *scratch,
                int threads);

/* Packed tokens times strip number `strip` of rk_strips(): transposed into `turned`, then by `panels`. */
ptrdiff_t rk_strips(const rk_matrix *m);
size_t rk_strip_bytes(const rk_matrix *m);
void rk_strip_panels(const rk_ops *ops, const rk_matrix *m, const void *packed, ptrdiff_t tokens, void *y,
                     ptrdiff_t strip, char *turned, void *scratch);

#endif
