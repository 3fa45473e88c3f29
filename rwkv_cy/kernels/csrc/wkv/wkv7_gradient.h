/* The backward pass of the WKV of RWKV-7: its arguments. */
#ifndef RK_WKV7_GRADIENT_H
#define RK_WKV7_GRADIENT_H

#include "wkv/wkv7.h"

/* The vectors whose gradients the backward pass sums, in their order. */
enum {
    RK_WKV7_W0,
    RK_WKV7_A0,
    RK_WKV7_V0,
    RK_WKV7_K_K,
    RK_WKV7_K_A,
    RK_WKV7_R_K,
    RK_WKV7_NORM_WEIGHT,
    RK_WKV7_NORM_BIAS,
    RK_WKV7_SUMS
};

#define RK_WKV7_GRADIENT_VECTORS 10 /* the shared vectors of a token, and their gradients */

/* Arguments of the backward pass. `forward` has those of the forward pass, whose y, v_used and bonus are scratch here.
 * dy is the gradient of the result; dr and the others are set to those of the activations of the same name, each of
 * shape (tokens, width), and may not overlap. dv_mix may be NULL in the first layer. dv_first is added to, except in
 * the first layer, which adds it to dv. */
typedef struct {
    rk_wkv7 forward;
    const void *dy;
    void *dr, *dw, *dk, *da, *dg, *dv_mix, *dv, *dv_first;
} rk_wkv7_gradient;

#endif
