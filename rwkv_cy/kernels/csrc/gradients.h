/* Interface of gradients.c: the backward pass of a layer, shared by threads. Names are as in gradient_ops.h. */
#ifndef RK_GRADIENTS_H
#define RK_GRADIENTS_H

#include "rk.h"

/* In the backward pass, a sequence's `read` is the layer's row of the state before its first token; `write` is the
 * gradient of that row: with respect to the state after the last token on entry, before the first token on return. */

/* LayerNorm: dx += gradient; d_weight and d_bias may be NULL. moments: scratch of 2 elements a token. */
void rk_layer_norm_gradient(const rk_ops *ops, const void *x, const void *weight, double eps, const void *dy,
                            ptrdiff_t tokens, ptrdiff_t width, void *dx, void *d_weight, void *d_bias, void *moments,
                            int threads);
/* Token shifts of the same x; `before` is the offset in the state of the token before the first of a sequence. */
void rk_shift_gradients(const rk_ops *ops, const rk_shift_gradient *shifts, int count, int lerped, const void *x,
                        size_t before, const rk_tokens *all, ptrdiff_t width, void *dx, int threads);
/* y = shifted x; `more` may be NULL. */
void rk_shift_tokens(const rk_ops *ops, int lerped, const void *x, const void *mix, const void *more, size_t before,
                     const rk_tokens *all, ptrdiff_t width, void *y, int threads);
/* Move the gradient of a state field that keeps the last token of x: add it to that token's dx, and clear it. */
void rk_take_last(const rk_ops *ops, const rk_tokens *all, ptrdiff_t width, size_t field, void *dx);
/* y = sigmoid(gate) * x: dx and d_gate from dy, overwritten; dx may be dy. */
void rk_gated_gradient(const rk_ops *ops, const void *gate, const void *x, const void *dy, ptrdiff_t n, void *dx,
                       void *d_gate, int threads);
/* y = max(x, 0)^2, and its gradient: d is replaced by that of x. */
void rk_relu_squared(const rk_ops *ops, const void *x, ptrdiff_t n, void *y, int threads);
void rk_relu_squared_gradient(const rk_ops *ops, const void *x, ptrdiff_t n, void *d, int threads);
/* y += x */
void rk_add(const rk_ops *ops, const void *x, ptrdiff_t n, void *y, int threads);
/* Cross-entropy of the logits of each token, which are replaced by their gradient; losses gets that of each. */
void rk_cross_entropy(const rk_ops *ops, void *logits, const long long *targets, const double *weights, double l2_wrap,
                      ptrdiff_t tokens, ptrdiff_t vocab_size, double *losses, int threads);
/* WKV of a vector-valued state; p is the version's own struct of gradients. */
size_t rk_channels_gradient_scratch(const rk_ops *ops, const rk_tokens *all, int threads);
void rk_run_channels_gradient(const rk_ops *ops, int version, const rk_channels *p, const rk_tokens *all,
                              void *scratch, int threads);

/* Convert a matrix of any type but bf12 to the type of the activations, in its orientation. */
void rk_to_floats(const rk_matrix *m, void *out, int threads);
/* g [rows, m->rows] += x m^T; x has shape (rows, m->cols). */
size_t rk_add_product_scratch(const rk_ops *ops, ptrdiff_t rows, const rk_matrix *m, int threads);
void rk_add_product(const rk_ops *ops, const void *x, ptrdiff_t rows, const rk_matrix *m, void *g, void *scratch,
                    int threads);
/* g [a_width, b_width] += scale * sum over tokens of a[t] b[t]^T; tokens of a are a_stride elements apart. */
size_t rk_outer_scratch(const rk_ops *ops, ptrdiff_t a_width, ptrdiff_t b_width, ptrdiff_t tokens, int threads);
void rk_outer(const rk_ops *ops, const void *a, ptrdiff_t a_width, ptrdiff_t a_stride, const void *b, ptrdiff_t b_width,
              ptrdiff_t tokens, double scale, void *g, void *scratch, int threads);

#endif
