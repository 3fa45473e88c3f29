/* Products with quantized matrices for AVX2 with AVX-VNNI, which many CPUs without AVX-512 have. */
#include "rk.h"
#include "isa/compiler.h"

#if defined(__x86_64__) && RK_KNOWS_AVXVNNI
#define RK_NAME avxvnni
#include "isa/target_avxvnni.h"
#include "isa/quant_avxvnni.h"
#include "families/quantized_body.h"
#include "isa/target_end.h"
#endif
