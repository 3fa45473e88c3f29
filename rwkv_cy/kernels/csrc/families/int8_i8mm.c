/* Products of many quantized tokens for NEON with products of matrices of bytes. */
#include "rk.h"
#include "isa/compiler.h"

#if defined(__aarch64__) && RK_KNOWS_ARM_PRODUCTS
#define RK_NAME i8mm
#include "isa/target_i8mm.h"
#include "isa/simd_neon.h"
#include "isa/quant_neon_rows.h"
#include "isa/dots_i8mm.h"
#include "families/int8_dots_body.h"
#include "isa/target_end.h"
#endif
