/* Vectors of AVX2 with FMA and F16C: 32 bytes. */
#define RK_NAME avx2
#define RK_VECTOR_BYTES 32

#define RK_FMA_F32(a, b, c) ((rk_vf32)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define RK_FMA_F64(a, b, c) ((rk_vf64)_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c)))

#define RK_PANEL_ROWS 4
#define RK_PANEL_TOKENS 3

typedef float rk_vf32 __attribute__((vector_size(32)));

static inline rk_vf32 rk_load_f16(const uint16_t *p)
{
    return (rk_vf32)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
