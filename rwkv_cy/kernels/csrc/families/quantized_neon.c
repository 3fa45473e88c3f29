/* Products with quantized matrices for NEON. */
#include "rk.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#define RK_NAME neon
#include "isa/simd_neon.h"
#include "isa/quant_neon.h"
#include "isa/quant_vector.h"
#include "families/quantized_body.h"
#endif
