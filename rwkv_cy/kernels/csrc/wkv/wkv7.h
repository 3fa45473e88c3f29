/* WKV of RWKV-7: its arguments. */
#ifndef RK_WKV7_H
#define RK_WKV7_H

#include "rk.h"

/* Parameters have shape [width]; activations have shape (tokens, width) and cover the whole batch. r, k and v are
 * outputs of the full matrices; w, a, g and v_mix of the low-rank products. In the first layer v_mix is NULL and v is
 * written to v_first; the other layers read v_first. v_used, which may be v, receives the values that the state takes
 * up. bonus has shape (tokens, heads). */
typedef struct {
    rk_heads heads;
    const void *w0, *a0, *v0, *k_k, *k_a, *r_k;
    const void *r, *w, *k, *a, *g, *v_mix, *v;
    void *v_used, *v_first, *bonus;
} rk_wkv7;

#define RK_WKV7_VECTORS 5 /* the shared vectors of wkv7_body.h */

#endif
