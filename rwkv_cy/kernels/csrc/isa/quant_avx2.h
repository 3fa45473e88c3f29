/* Vectors of eight rows for quantized matrices: AVX2. */
#include "isa/quant_256.h"

#define RK_Q_TOKENS 3
#define RK_Q_STREAMS(dtype) ((dtype) == RK_Q8 ? 2 : 1)
#define RK_Q_STREAMS_AHEAD(dtype) ((dtype) == RK_Q8)
#define RK_Q_PAIRS 1

/* Products of bytes are summed in pairs in 16 bits: 2 * 127 * 127 fits, since -128 does not occur. */
static inline rk_qi rk_qi_dot8(rk_qi acc, rk_qw w, rk_qx x)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static inline rk_qi rk_qi_dot4(rk_qi acc, rk_qw w, rk_qx x)
{
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
}

/* Values of up to 63: the sum of four products fits in 16 bits. */
static inline rk_qi rk_qi_dot_pair(rk_qi acc, rk_qw w, rk_qx x, rk_qw w2, rk_qx x2)
{
    __m256i fours = _mm256_add_epi16(_mm256_maddubs_epi16(w, x), _mm256_maddubs_epi16(w2, x2));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(fours, _mm256_set1_epi16(1)));
}

#define RK_Q8_START(total) 0
#define RK_QI_DOT8(acc, w, x) rk_qi_dot8(acc, w, x)
#define RK_QI_DOT4(acc, w, x) rk_qi_dot4(acc, w, x)
#define RK_QI_DOT_PAIR(acc, w, x, w2, x2) rk_qi_dot_pair(acc, w, x, w2, x2)

/* The compiler computes v when it is needed, and neither moves nor regroups its terms. */
static inline rk_qi rk_qi_in_order(rk_qi v)
{
    __asm__("" : "+x"(v));
    return v;
}

/* Tiles of several tokens (quantized_tiles_body.h): from this number of tokens on. Two products of 16 bits, or four of
 * bytes, are summed in each 32 bits or in the two halves of them. */
#define RK_Q_TILES_FROM 16
#define RK_QW_EVEN(v) _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8)
#define RK_QW_ODD(v) _mm256_srai_epi16(v, 8)
#define RK_QW_STORE(p, v) _mm256_storeu_si256((__m256i *)(p), v)
#define RK_QI_LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define RK_QI_PAIRS(w, x) _mm256_madd_epi16(w, x)
#define RK_QH_FOURS(w, x) _mm256_maddubs_epi16(w, x)
#define RK_QH_ADD(a, b) _mm256_add_epi16(a, b)
#define RK_QI_HALVES(sums) _mm256_madd_epi16(sums, _mm256_set1_epi16(1))
#define RK_QI_IN_ORDER(v) rk_qi_in_order(v)
#define RK_QF_LOAD(p) _mm256_loadu_ps((const float *)(p))
