/* Products with quantized matrices for NEON with dot products of bytes. */
#include "rk.h"
#include "isa/compiler.h"

#if defined(__aarch64__) && RK_KNOWS_ARM_PRODUCTS
#define RK_NAME dotprod
#include "isa/target_dotprod.h"
#include "isa/simd_neon.h"
#include "isa/quant_dotprod.h"
#include "isa/quant_vector.h"
#include "families/quantized_body.h"
#include "isa/target_end.h"
#endif
