/* Vectors of AVX-512 (F, BW, DQ, VL): 64 bytes. */
#define RK_NAME avx512
#define RK_VECTOR_BYTES 64

#define RK_FMA_F32(a, b, c) ((rk_vf32)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define RK_FMA_F64(a, b, c) ((rk_vf64)_mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c)))

#define RK_PANEL_ROWS 6
#define RK_PANEL_TOKENS 4

typedef float rk_vf32 __attribute__((vector_size(64)));
typedef double rk_vf64 __attribute__((vector_size(64)));
typedef uint32_t rk_vu32 __attribute__((vector_size(64)));
typedef uint16_t rk_vu16 __attribute__((vector_size(64)));

static inline rk_vf32 rk_load_f16(const uint16_t *p)
{
    return (rk_vf32)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

static inline rk_vf32 rk_load_bf16(const uint16_t *p)
{
    return (rk_vf32)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
}

/* Sums of the lanes: halves are added to halves until one is left; + 0 makes a zero positive (columns_body.h). */
static inline float rk_sum_f32(rk_vf32 v)
{
    __m256 t = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s))) + 0.0f;
}

static inline double rk_sum_f64(rk_vf64 v)
{
    __m256d t = _mm256_add_pd(_mm512_castpd512_pd256((__m512d)v), _mm512_extractf64x4_pd((__m512d)v, 1));
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128(t), _mm256_extractf128_pd(t, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s))) + 0.0;
}
