/* Products with quantized matrices for any CPU. */
#define RK_NAME portable
#include "isa/simd_portable.h"
#include "isa/quant_portable.h"
#include "isa/quant_vector.h"
#include "families/quantized_body.h"
