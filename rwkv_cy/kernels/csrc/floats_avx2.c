/* Float kernels for AVX2. */
#include "rk.h"

#if defined(__x86_64__)
#define RK_NAME avx2
#include "target_avx2.h"
#include "simd_avx2.h"
#include "bf12_avx2.h"
#include "floats_body.h"
#include "target_end.h"
#endif
