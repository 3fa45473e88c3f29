/* Vectors of eight rows for quantized matrices, 32 bytes: all but the dot products. */
#include "codec/quant.h"

#define RK_Q_LANES 8
#define RK_Q_WIDE 1

typedef __m256i rk_qi, rk_qx, rk_qw;
typedef __m256 rk_qf;

/* The four lower bits of each byte, and above them one of the four 2-bit fields of `upper`. */
static inline rk_qw rk_qw_join(rk_qw low, rk_qw upper, int field)
{
    switch (field) {
    case 0: upper = _mm256_slli_epi16(upper, 4); break;
    case 1: upper = _mm256_slli_epi16(upper, 2); break;
    case 3: upper = _mm256_srli_epi16(upper, 2); break;
    }
    return _mm256_or_si256(low, _mm256_and_si256(upper, _mm256_set1_epi8(0x30)));
}

static inline rk_qw rk_qw_level(rk_qw v)
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_setr_epi8(RK_LEVELS)), v);
}

static inline __m128i rk_q_words(const uint16_t *p) { return _mm_loadu_si128((const __m128i *)p); }

static inline rk_qf rk_qf_scale(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_and_si128(_mm_srli_epi16(rk_q_words(p), 1), _mm_set1_epi16(RK_SCALE_MASK)));
}

static inline rk_qi rk_qi_zero(const uint16_t *p)
{
    return _mm256_cvtepu16_epi32(_mm_and_si128(rk_q_words(p), _mm_set1_epi16(RK_ZERO_MASK)));
}

#define RK_QX_SET(four) _mm256_set1_epi32(four)
#define RK_QI_SET(n) _mm256_set1_epi32(n)
#define RK_QW_LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define RK_QW_LOW(v) _mm256_and_si256(v, _mm256_set1_epi8(15))
#define RK_QW_HIGH(v) _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15))
#define RK_QW_JOIN(low, upper, field) rk_qw_join(low, upper, field)
#define RK_QI_ADD(a, b) _mm256_add_epi32(a, b)
#define RK_QF_ZERO() _mm256_setzero_ps()
#define RK_QF_SET(x) _mm256_set1_ps(x)
#define RK_QF_F16(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define RK_QF_OF(i) _mm256_cvtepi32_ps(i)
#define RK_QF_MUL(a, b) _mm256_mul_ps(a, b)
#define RK_QF_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define RK_QF_STORE(p, v) _mm256_storeu_ps(p, v)
#define RK_QW_LEVEL(v) rk_qw_level(v)
#define RK_QF_SCALE(p) rk_qf_scale(p)
#define RK_QI_ZERO(p) rk_qi_zero(p)
#define RK_QI_TIMES(zero, n) _mm256_madd_epi16(zero, _mm256_set1_epi32(n)) /* n of 16 bits */
