/* Float kernels for AVX-512. */
#include "rk.h"

#if defined(__x86_64__)
#define RK_NAME avx512
#include "isa/target_avx512.h"
#include "isa/simd_avx512.h"
#include "isa/bf12_avx512.h"
#include "families/floats_body.h"
#include "isa/target_end.h"
#endif
