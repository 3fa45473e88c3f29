/* Four dot products of four integers each, by NEON's instruction for them. */
#include "isa/quant_neon_rows.h"

#define RK_Q_PAIRS 0

static inline rk_qi rk_qi_dot(rk_qi acc, rk_qx w, rk_qx x)
{
    return (rk_qi)vdotq_s32((int32x4_t)acc, (int8x16_t)w, (int8x16_t)x);
}

#define RK_QI_DOT_PAIR(acc, w, x, w2, x2) (acc) /* not used: RK_Q_PAIRS */
