/* Float kernels for NEON. */
#include "rk.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#define RK_NAME neon
#include "isa/simd_neon.h"
#include "isa/bf12_neon.h"
#include "families/floats_body.h"
#endif
