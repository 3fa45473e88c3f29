/* Vectors of AVX-512 (F, BW, DQ, VL): 64 bytes. */
#define RK_NAME avx512
#define RK_VECTOR_BYTES 64

#define RK_FMA_F32(a, b, c) ((rk_vf32)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define RK_FMA_F64(a, b, c) ((rk_vf64)_mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c)))

#define RK_PANEL_ROWS 6
#define RK_PANEL_TOKENS 4

typedef float rk_vf32 __attribute__((vector_size(64)));

static inline rk_vf32 rk_load_f16(const uint16_t *p)
{
    return (rk_vf32)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
