/* Interface of optimiser.c: AdamW, shared by threads. */
#ifndef RK_OPTIMISER_H
#define RK_OPTIMISER_H

#include "rk.h"

/* One update of n parameters; `first` and `second` are the running means of gradients and of their squares. */
void rk_adamw_update(const rk_ops *ops, const rk_adamw *options, const void *gradient, void *first, void *second,
                     void *values, ptrdiff_t n, int threads);

/* Elements whose squares are summed together, and how many sums n elements have. */
#define RK_SQUARES ((ptrdiff_t)1 << 14)
static inline ptrdiff_t rk_square_sums(ptrdiff_t n) { return (n + RK_SQUARES - 1) / RK_SQUARES; }

/* The sum of the squares of every RK_SQUARES elements. */
void rk_squares(const rk_ops *ops, const void *x, ptrdiff_t n, double *sums, int threads);

#endif
