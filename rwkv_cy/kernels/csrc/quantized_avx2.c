/* Products with quantized matrices for AVX2. */
#include "rk.h"

#if defined(__x86_64__)
#define RK_NAME avx2
#include "target_avx2.h"
#include "quant_avx2.h"
#include "quantized_body.h"
#include "target_end.h"
#endif
