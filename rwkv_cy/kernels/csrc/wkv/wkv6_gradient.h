/* The backward pass of the WKV of RWKV-6, and of RWKV-5: its arguments. */
#ifndef RK_WKV6_GRADIENT_H
#define RK_WKV6_GRADIENT_H

#include "wkv/wkv6.h"

/* The vectors whose gradients the backward pass sums, in their order. DECAY is what `decay` of rk_wkv6 holds. */
enum { RK_WKV6_DECAY, RK_WKV6_U, RK_WKV6_NORM_WEIGHT, RK_WKV6_NORM_BIAS, RK_WKV6_SUMS };

#define RK_WKV6_GRADIENT_VECTORS 4 /* the decay of a token, and the gradients of the vectors that all rows share */

/* Arguments of the backward pass. `forward` has those of the forward pass, whose y is scratch here. dy is the gradient
 * of the result; dr and the others are set to those of the activations of the same name, each of shape (tokens, width),
 * and may not overlap. dw and dg are not used where w and g are NULL. */
typedef struct {
    rk_wkv6 forward;
    const void *dy;
    void *dr, *dk, *dv, *dw, *dg;
} rk_wkv6_gradient;

#endif
