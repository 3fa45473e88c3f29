/* Vectors of eight rows for quantized matrices: AVX2 with AVX-VNNI. */
#include "isa/quant_256.h"

/* Eight integer sums in sixteen registers, and one stream of weights. Neither was measured on such a CPU. */
#define RK_Q_TOKENS 4
#define RK_Q_STREAMS(dtype) 1
#define RK_Q_STREAMS_AHEAD(dtype) 0
#define RK_Q_PAIRS 0

/* The instruction multiplies unsigned by signed: q8's integers are offset by 128, and the sum starts at -128 times the
 * sum of the activations. */
#define RK_Q8_START(total) (-128 * (total))
#define RK_QI_DOT8(acc, w, x) _mm256_dpbusd_avx_epi32(acc, _mm256_xor_si256(w, _mm256_set1_epi8(-128)), x)
#define RK_QI_DOT4(acc, w, x) _mm256_dpbusd_avx_epi32(acc, w, x)
#define RK_QI_DOT_PAIR(acc, w, x, w2, x2) (acc) /* not used: RK_Q_PAIRS */
