/* Products with quantized matrices for any CPU. */
#define RK_NAME portable
#include "simd_portable.h"
#include "quant_portable.h"
#include "quant_vector.h"
#include "quantized_body.h"
