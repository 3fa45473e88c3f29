/* Vectors of AVX2 with FMA and F16C: 32 bytes. */
#define RK_VECTOR_BYTES 32

#define RK_FMA_F32(a, b, c) ((rk_vf32)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))

#define RK_PANEL_ROWS 4
#define RK_PANEL_TOKENS 3
#define RK_ROW_TOKENS 2
#define RK_FEW_TOKENS 16

typedef float rk_vf32 __attribute__((vector_size(32)));
typedef uint32_t rk_vu32 __attribute__((vector_size(32)));
typedef uint16_t rk_vu16 __attribute__((vector_size(32)));

static inline rk_vf32 rk_load_f16(const uint16_t *p)
{
    return (rk_vf32)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

static inline rk_vf32 rk_load_bf16(const uint16_t *p)
{
    return (rk_vf32)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
}

/* Bit k: whether a[k] >= b[k]. */
static inline uint32_t rk_at_least_f32(rk_vf32 a, rk_vf32 b)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GE_OQ));
}

/* Sum of the lanes: halves are added until one lane is left; + 0 turns -0 into 0 (columns_body.h). */
static inline float rk_sum_f32(rk_vf32 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s))) + 0.0f;
}

/* The sums of four vectors and of eight at once, each in the order of rk_sum_f32: each step interleaves
 * lanes of two, four, then eight vectors and adds them. */
static inline __m256 rk_join_halves(rk_vf32 a, rk_vf32 b)
{
    return _mm256_add_ps(_mm256_permute2f128_ps((__m256)a, (__m256)b, 0x20),
                         _mm256_permute2f128_ps((__m256)a, (__m256)b, 0x31));
}

static inline __m256 rk_join_pairs(__m256 a, __m256 b)
{
    __m256d low = _mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b));
    __m256d high = _mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b));
    return _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
}

static inline __attribute__((always_inline)) void rk_sums_f32(const rk_vf32 *v, int n, float *sums)
{
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 a = rk_join_pairs(rk_join_halves(v[i], v[i + 4]), rk_join_halves(v[i + 1], v[i + 5]));
        __m256 b = rk_join_pairs(rk_join_halves(v[i + 2], v[i + 6]), rk_join_halves(v[i + 3], v[i + 7]));
        _mm256_storeu_ps(sums + i, _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd)));
    }
    for (; i + 4 <= n; i += 4) {
        __m256 all = rk_join_pairs(rk_join_halves(v[i], v[i + 2]), rk_join_halves(v[i + 1], v[i + 3]));
        __m128 a = _mm256_castps256_ps128(all), b = _mm256_extractf128_ps(all, 1);
        _mm_storeu_ps(sums + i, _mm_add_ps(_mm_shuffle_ps(a, b, 0x88), _mm_shuffle_ps(a, b, 0xdd)));
    }
    for (; i < n; i++) sums[i] = rk_sum_f32(v[i]);
}

/* Interleave the items of two vectors: the first halves, and the second halves. */
#define RK_ZIP_LOW(a, b) RK_PICK(rk_vu32, a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define RK_ZIP_HIGH(a, b) RK_PICK(rk_vu32, a, b, 4, 12, 5, 13, 6, 14, 7, 15)
