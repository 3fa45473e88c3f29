/* Products of many quantized tokens for NEON. */
#include "rk.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#define RK_NAME neon
#include "isa/simd_neon.h"
#include "isa/quant_neon_rows.h"
#include "isa/dots_neon.h"
#include "families/int8_dots_body.h"
#endif
