/* Float kernels for NEON. */
#include "rk.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#define RK_NAME neon
#include "simd_neon.h"
#include "bf12_neon.h"
#include "floats_body.h"
#endif
