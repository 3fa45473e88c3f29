/* Products with quantized matrices for NEON. */
#include "rk.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#define RK_NAME neon
#include "simd_neon.h"
#include "quant_neon.h"
#include "quant_vector.h"
#include "quantized_body.h"
#endif
