/* WKV of RWKV-4, for one type of activations and one instruction set. */
#include "wkv/wkv4.h"

/* Return p = max(a, b); set e^(a-p) and e^(b-p). That of the larger is 1, or NaN if p is not finite. */
static inline VEC FN(exps)(VEC a, VEC b, VEC *ea, VEC *eb)
{
    const VEC p = VEC_WHERE(a, b, a, b), one = (p - p) + (REAL)1;
    const VEC e = VEC_EXP(VEC_WHERE(a, b, b, a) - p);
    *ea = VEC_WHERE(a, b, one, e);
    *eb = VEC_WHERE(a, b, e, one);
    return p;
}

/* y = sigmoid(r) * wkv */
static void FN(wkv4)(const rk_channels *channels, ptrdiff_t first, ptrdiff_t tokens, const char *read, char *write,
                     ptrdiff_t begin, ptrdiff_t end)
{
    const rk_wkv4 *p = (const rk_wkv4 *)channels;
    const ptrdiff_t width = channels->width;
    const REAL *r = p->r == NULL ? NULL : (const REAL *)p->r + first * width;
    const REAL *k_ = (const REAL *)p->k + first * width, *v_ = (const REAL *)p->v + first * width;
    REAL *y = p->y == NULL ? NULL : (REAL *)p->y + first * width;
    REAL *aa_out = (REAL *)(write + p->aa), *bb_out = (REAL *)(write + p->bb), *pp_out = (REAL *)(write + p->pp);
    for (ptrdiff_t t = 0; t < tokens; t++, read = write) {
        const REAL *aa_in = (const REAL *)(read + p->aa), *bb_in = (const REAL *)(read + p->bb);
        const REAL *pp_in = (const REAL *)(read + p->pp);
        for (ptrdiff_t i = begin; i < end; i += LANES) {
            const ptrdiff_t n = end - i, at = t * width + i;
            VEC w = FN(get)((const REAL *)p->w + i, n), u = FN(get)((const REAL *)p->u + i, n);
            VEC k = FN(get)(k_ + at, n), v = FN(get)(v_ + at, n);
            VEC aa = FN(get)(aa_in + i, n), bb = FN(get)(bb_in + i, n), pp = FN(get)(pp_in + i, n);
            VEC e1, e2;
            if (r != NULL) {
                /* p = max(pp, u + k);  wkv = (e^(pp-p) aa + e^(u+k-p) v) / (e^(pp-p) bb + e^(u+k-p)) */
                FN(exps)(pp, u + k, &e1, &e2);
                VEC wkv = (e1 * aa + e2 * v) / (e1 * bb + e2);
                FN(put)(y + at, FN(sigmoid)(FN(get)(r + at, n)) * wkv, n);
            }
            /* p = max(pp + w, k);  aa = e^(pp+w-p) aa + e^(k-p) v;  bb = e^(pp+w-p) bb + e^(k-p);  pp = p */
            const VEC m = FN(exps)(pp + w, k, &e1, &e2);
            FN(put)(aa_out + i, e1 * aa + e2 * v, n);
            FN(put)(bb_out + i, e1 * bb + e2, n);
            FN(put)(pp_out + i, m, n);
        }
    }
}
