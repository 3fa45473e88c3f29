/* Float kernels for AVX-512. */
#include "rk.h"

#if defined(__x86_64__)
#define RK_NAME avx512
#include "target_avx512.h"
#include "simd_avx512.h"
#include "bf12_avx512.h"
#include "floats_body.h"
#include "target_end.h"
#endif
