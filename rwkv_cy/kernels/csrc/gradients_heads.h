/* Interface of gradients_heads.c: the backward pass of a matrix-valued state and of low-rank products, shared by
 * threads. */
#ifndef RK_GRADIENTS_HEADS_H
#define RK_GRADIENTS_HEADS_H

#include "rk.h"

#define RK_GRADIENT_ROWS 4 /* value rows of a head that go through a segment of tokens together */
#define RK_MOST_SEGMENT ((ptrdiff_t)128)

/* Tokens of a segment: the state is kept once a segment and, of a few rows, after each token of one segment. */
static inline ptrdiff_t rk_segment_tokens(ptrdiff_t tokens)
{
    ptrdiff_t length = 16;
    while (length < RK_MOST_SEGMENT && 4 * length * length < tokens) length *= 2;
    return length;
}

/* Bytes of one thread's scratch for the backward pass of sequences of at most `tokens` tokens. */
size_t rk_heads_gradient_scratch(const rk_ops *ops, int version, ptrdiff_t size, ptrdiff_t tokens);

/* The backward pass over all sequences, whose `read` is the state before the pass, and `write` the gradient of the state.
 * `parts` receives the sums of each sequence: shape (sequences, sums, width); the first one's become those of all. */
void rk_run_heads_gradient(const rk_ops *ops, int version, const rk_heads *p, const rk_tokens *all, void *parts,
                           void *scratch, int threads);

/* y = the activation (RK_TANH or RK_SIGMOID) of x. */
void rk_activate(const rk_ops *ops, int activation, const void *x, ptrdiff_t n, void *y, int threads);
/* The gradient of x from y, the result of rk_activate: replaces d, that of y. */
void rk_activate_gradient(const rk_ops *ops, int activation, const void *y, ptrdiff_t n, void *d, int threads);

#endif
