/* Products with quantized matrices for AVX-512 with VNNI. */
#include "rk.h"

#if defined(__x86_64__)
#define RK_NAME avx512vnni
#include "target_avx512vnni.h"
#include "quant_vnni.h"
#include "quantized_body.h"
#include "target_end.h"
#endif
