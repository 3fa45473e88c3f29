/* The backward pass of the WKV of RWKV-4: its arguments. */
#ifndef RK_WKV4_GRADIENT_H
#define RK_WKV4_GRADIENT_H

#include "wkv/wkv4.h"

/* forward: as in the forward pass, without y. dy: gradient of y. dr, dk and dv, of its shape, are overwritten; dw and du
 * [width] are added to, and may be NULL. In a state's gradient, aa, bb and pp are at the offsets of the state. */
typedef struct {
    rk_wkv4 forward;
    const void *dy;
    void *dr, *dk, *dv, *dw, *du;
} rk_wkv4_gradient;

#endif
