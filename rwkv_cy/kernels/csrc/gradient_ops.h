/* Kernels of the backward pass: their table in rk_ops. In names, d stands for the gradient of a loss with respect to what
 * follows: dx has the shape of x. Gradients are added to, unless said otherwise. */
#ifndef RK_GRADIENT_OPS_H
#define RK_GRADIENT_OPS_H

#include <stddef.h>

/* A token shift: `d` [tokens, width] is the gradient of the shifted tokens. d_mix [width] and d_more [tokens, width] may
 * be NULL; d_more is overwritten. */
typedef struct {
    const void *mix, *more, *d;
    void *d_mix, *d_more;
} rk_shift_gradient;

/* AdamW. `scale` multiplies the gradient, `keep` the parameter before it moves (weight decay); `step` and `root` contain
 * the corrections of the means, 1 / (1 - beta1^t) and 1 / sqrt(1 - beta2^t). */
typedef struct {
    double scale, beta1, beta2, epsilon, keep, step, root;
} rk_adamw;

/* Kernels for one type of activations, all of a range begin..end of tokens, channels or elements. */
typedef struct {
    /* LayerNorm, tokens: dx += gradient; `moments` [tokens][2] gets mean and 1 / sqrt(variance + eps). */
    void (*layer_norm)(const void *x, const void *weight, double eps, const void *dy, ptrdiff_t width, void *dx,
                       void *moments, ptrdiff_t begin, ptrdiff_t end);
    /* Its parameters, channels; each may be NULL. */
    void (*layer_norm_parameters)(const void *x, const void *moments, const void *dy, ptrdiff_t tokens,
                                  ptrdiff_t width, void *d_weight, void *d_bias, ptrdiff_t begin, ptrdiff_t end);
    /* Token shifts of one sequence, channels: x and dx begin at its first token, as do `d`, `more` and d_more after
     * `offset` elements. `before` is the token before, d_before its gradient. `lerped`: x + (before - x) * mix. */
    void (*shift)(const rk_shift_gradient *shifts, int count, int lerped, const void *x, const void *before,
                  ptrdiff_t offset, ptrdiff_t tokens, ptrdiff_t width, void *dx, void *d_before, ptrdiff_t begin,
                  ptrdiff_t end);
    /* y = sigmoid(gate) * x, elements: dx and d_gate from dy, overwritten. */
    void (*gated)(const void *gate, const void *x, const void *dy, void *dx, void *d_gate, ptrdiff_t begin,
                  ptrdiff_t end);
    /* y = max(x, 0)^2, elements: `d` is replaced by the gradient of x. */
    void (*relu_squared)(const void *x, void *d, ptrdiff_t begin, ptrdiff_t end);
    /* Cross-entropy of one token's logits: they are replaced by `weight` times the gradient of the loss, which is
     * returned. l2_wrap * weight times the largest logit is added to the gradient of that logit. */
    double (*cross_entropy)(void *logits, ptrdiff_t vocab_size, ptrdiff_t target, double weight, double l2_wrap);
    /* y = tanh(x) and y = sigmoid(x), elements: `d` is replaced by the gradient of x. */
    void (*tanh)(const void *y, void *d, ptrdiff_t begin, ptrdiff_t end);
    void (*sigmoid)(const void *y, void *d, ptrdiff_t begin, ptrdiff_t end);
    /* Update of parameters, elements. */
    void (*adamw)(const rk_adamw *options, const void *gradient, void *first, void *second, void *values,
                  ptrdiff_t begin, ptrdiff_t end);
    /* The sum of the squares, elements. */
    double (*squares)(const void *x, ptrdiff_t begin, ptrdiff_t end);
} rk_gradients;

/* Initialiser of rk_ops.gradients for the functions with this suffix. */
#define RK_GRADIENTS(suffix)                                                                                           \
    {                                                                                                                  \
        .layer_norm = layer_norm_gradient_##suffix, .layer_norm_parameters = layer_norm_parameters_gradient_##suffix,  \
        .shift = shift_gradient_##suffix, .gated = gated_gradient_##suffix,                                            \
        .relu_squared = relu_squared_gradient_##suffix, .cross_entropy = cross_entropy_##suffix,                       \
        .tanh = tanh_gradient_##suffix, .sigmoid = sigmoid_gradient_##suffix, .adamw = adamw_##suffix,                 \
        .squares = squares_##suffix,                                                                                   \
    }

#endif
