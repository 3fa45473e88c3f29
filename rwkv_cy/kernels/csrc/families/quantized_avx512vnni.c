/* Products with quantized matrices for AVX-512 with VNNI. */
#include "rk.h"

#if defined(__x86_64__)
#define RK_NAME avx512vnni
#include "isa/target_avx512vnni.h"
#include "isa/quant_vnni.h"
#include "families/quantized_body.h"
#include "isa/target_end.h"
#endif
