/* Float kernels for AVX2. */
#include "rk.h"

#if defined(__x86_64__)
#define RK_NAME avx2
#include "isa/target_avx2.h"
#include "isa/simd_avx2.h"
#include "isa/bf12_avx2.h"
#include "families/floats_body.h"
#include "isa/target_end.h"
#endif
