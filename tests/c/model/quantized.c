/* The quantized family of AVX-VNNI, with its instruction in plain C. */
#include "rk.h"

#if defined(__x86_64__)
#define RK_NAME model
#include "isa/target_avx2.h"

typedef int32_t model_sums __attribute__((vector_size(32)));
typedef uint8_t model_bytes __attribute__((vector_size(32)));

/* Each sum plus the products of four unsigned bytes with four signed ones. */
static inline __m256i model_dpbusd(__m256i sums, __m256i w, __m256i x)
{
    model_sums out = (model_sums)sums;
    for (int i = 0; i < 32; i++) out[i / 4] += ((model_bytes)w)[i] * (int8_t)((model_bytes)x)[i];
    return (__m256i)out;
}

#define _mm256_dpbusd_avx_epi32(sums, w, x) model_dpbusd(sums, w, x)
#include "isa/quant_avxvnni.h"
#include "families/quantized_body.h"
#include "isa/target_end.h"
#else
void rk_quantized_model(rk_table *table);
void rk_quantized_model(rk_table *table) { (void)table; }
#endif
