/* WKV of RWKV-4: its arguments. */
#ifndef RK_WKV4_H
#define RK_WKV4_H

#include "rk.h"

/* w and u have shape [width]; k, v, r and y have shape (tokens, width) and cover the whole batch. If r is NULL, y is
 * not computed. aa, bb and pp are byte offsets into a layer's row of the state. */
typedef struct {
    rk_channels channels;
    const void *w, *u, *k, *v, *r;
    void *y;
    size_t aa, bb, pp;
} rk_wkv4;

#endif
