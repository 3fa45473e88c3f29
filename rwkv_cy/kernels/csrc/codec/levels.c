/* Quantization to q4n: the choice of the instruction set. Each gives the same bytes. */
#include "codec/levels.h"

#include "scalar.h"

#define LEVELS_(name) name##_any
#include "codec/levels_body.h"
#undef LEVELS_

#if defined(__x86_64__)
#include "isa/target_avx2.h"
#define LEVELS_(name) name##_avx2
#include "codec/levels_body.h"
#undef LEVELS_
#include "isa/target_end.h"
#endif

void rk_quantize_levels(const float *w, ptrdiff_t rows, ptrdiff_t cols, const float *importance, void *out)
{
#if defined(__x86_64__)
    if (rk_has_avx2()) {
        matrix_avx2(w, rows, cols, importance, out);
        return;
    }
#endif
    matrix_any(w, rows, cols, importance, out);
}
