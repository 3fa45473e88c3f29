/* WKV of RWKV-6, and of RWKV-5, whose decay is constant: its arguments. */
#ifndef RK_WKV6_H
#define RK_WKV6_H

#include "rk.h"

/* Parameters have shape [width]; activations have shape (tokens, width) and cover the whole batch.
 * decay: if w is NULL, the decay itself, else time_decay, which w of each token is added to.
 * g: the output gate before its activation; NULL for a version without one. */
typedef struct {
    rk_heads heads;
    const void *decay, *u;
    const void *r, *k, *v, *w, *g;
} rk_wkv6;

#define RK_WKV6_VECTORS 1 /* the decay */

#endif
