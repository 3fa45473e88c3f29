/* Vectors of sixteen rows for quantized matrices: AVX-512 with VNNI. */
#include "codec/quant.h"

#define RK_Q_LANES 16
#define RK_Q_TOKENS 8
#define RK_Q_WIDE 2
#define RK_Q_STREAMS(dtype) ((dtype) == RK_Q6 ? 1 : 2)
#define RK_Q_STREAMS_AHEAD(dtype) 0
#define RK_Q_PAIRS 0

typedef __m512i rk_qi, rk_qx, rk_qw;
typedef __m512 rk_qf;

/* The four lower bits of each byte, and above them one of the four 2-bit fields of `upper`. */
static inline rk_qw rk_qw_join(rk_qw low, rk_qw upper, int field)
{
    switch (field) {
    case 0: upper = _mm512_slli_epi16(upper, 4); break;
    case 1: upper = _mm512_slli_epi16(upper, 2); break;
    case 3: upper = _mm512_srli_epi16(upper, 2); break;
    }
    /* low | (upper & 0x30) */
    return _mm512_ternarylogic_epi32(low, upper, _mm512_set1_epi8(0x30), 0xf8);
}

static inline rk_qw rk_qw_level(rk_qw v)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_setr_epi8(RK_LEVELS)), v);
}

static inline __m256i rk_q_words(const uint16_t *p) { return _mm256_loadu_si256((const __m256i *)p); }

static inline rk_qf rk_qf_scale(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_and_si256(_mm256_srli_epi16(rk_q_words(p), 1), _mm256_set1_epi16(RK_SCALE_MASK)));
}

static inline rk_qi rk_qi_zero(const uint16_t *p)
{
    return _mm512_cvtepu16_epi32(_mm256_and_si256(rk_q_words(p), _mm256_set1_epi16(RK_ZERO_MASK)));
}

/* The instruction multiplies unsigned by signed: q8's integers are offset by 128, and the sum starts at -128 times the
 * sum of the activations. */
#define RK_Q8_START(total) (-128 * (total))
#define RK_QX_SET(four) _mm512_set1_epi32(four)
#define RK_QI_SET(n) _mm512_set1_epi32(n)
#define RK_QW_LOAD(p) _mm512_loadu_si512((const void *)(p))
#define RK_QW_LOW(v) _mm512_and_si512(v, _mm512_set1_epi8(15))
#define RK_QW_HIGH(v) _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15))
#define RK_QW_JOIN(low, upper, field) rk_qw_join(low, upper, field)
#define RK_QI_DOT8(acc, w, x) _mm512_dpbusd_epi32(acc, _mm512_xor_si512(w, _mm512_set1_epi8(-128)), x)
#define RK_QI_DOT4(acc, w, x) _mm512_dpbusd_epi32(acc, w, x)
#define RK_QI_ADD(a, b) _mm512_add_epi32(a, b)
#define RK_QF_ZERO() _mm512_setzero_ps()
#define RK_QF_SET(x) _mm512_set1_ps(x)
#define RK_QF_F16(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define RK_QF_OF(i) _mm512_cvtepi32_ps(i)
#define RK_QF_MUL(a, b) _mm512_mul_ps(a, b)
#define RK_QF_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define RK_QF_STORE(p, v) _mm512_storeu_ps(p, v)
#define RK_QI_DOT_PAIR(acc, w, x, w2, x2) (acc) /* not used: RK_Q_PAIRS */
#define RK_QW_LEVEL(v) rk_qw_level(v)
#define RK_QF_SCALE(p) rk_qf_scale(p)
#define RK_QI_ZERO(p) rk_qi_zero(p)
#define RK_QI_TIMES(zero, n) _mm512_madd_epi16(zero, _mm512_set1_epi32(n)) /* n of 16 bits */

/* The compiler adds products one by one: in an order of its own, it keeps them all, in memory. */
static inline rk_qi rk_qi_in_order(rk_qi v)
{
    __asm__("" : "+v"(v));
    return v;
}
#define RK_QI_IN_ORDER(v) rk_qi_in_order(v)
