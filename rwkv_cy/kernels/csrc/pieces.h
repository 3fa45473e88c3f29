/* Sizes of the pieces of work that threads share. A piece should take at least a few microseconds; otherwise waking a
 * thread costs more than it saves. */
#ifndef RK_PIECES_H
#define RK_PIECES_H

#include "rk.h"

#define PIECE_ELEMENTS ((ptrdiff_t)8 << 10) /* of an element-wise operation */

static inline ptrdiff_t at_least_one(ptrdiff_t n) { return n > 1 ? n : 1; }

static inline ptrdiff_t at_most(ptrdiff_t n, ptrdiff_t most) { return n < most ? n : most; }

static inline ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t unit) { return (n + unit - 1) / unit * unit; }

#endif
