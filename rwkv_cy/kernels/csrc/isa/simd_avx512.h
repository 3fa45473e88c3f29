/* Vectors of AVX-512 (F, BW, DQ, VL): 64 bytes. */
#define RK_VECTOR_BYTES 64

#define RK_FMA_F32(a, b, c) ((rk_vf32)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))

#define RK_PANEL_ROWS 6
#define RK_PANEL_TOKENS 4
#define RK_ROW_TOKENS 4
#define RK_FEW_TOKENS 24
/* With sixteen lanes, the sums of one 16-bit row keep up with memory, and a single stream is prefetched best. With
 * eight lanes they do not, so that four rows are processed together. */
#define RK_SINGLE_ROWS 1

typedef float rk_vf32 __attribute__((vector_size(64)));
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

/* Bit k: whether a[k] >= b[k]. */
static inline uint32_t rk_at_least_f32(rk_vf32 a, rk_vf32 b)
{
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ);
}

/* Sum of the lanes: halves are added until one lane is left; + 0 turns -0 into 0 (columns_body.h). */
static inline float rk_sum_f32(rk_vf32 v)
{
    __m256 t = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s))) + 0.0f;
}

/* The sums of sixteen vectors at once, each in the order of rk_sum_f32: each step interleaves lanes of
 * two, four, eight, then sixteen vectors and adds them. */
static inline __m512 rk_join_halves(__m512 a, __m512 b)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}

static inline __m512 rk_join_quarters(__m512 a, __m512 b)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* 128-bit lane i of the result is that of the i-th of four vectors. */
static inline __m512 rk_join_four(rk_vf32 a, rk_vf32 b, rk_vf32 c, rk_vf32 d)
{
    return rk_join_quarters(rk_join_halves((__m512)a, (__m512)b), rk_join_halves((__m512)c, (__m512)d));
}

static inline __m512 rk_join_pairs(__m512 a, __m512 b)
{
    __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
    __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
    return _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
}

static inline __attribute__((always_inline)) void rk_sums_f32(const rk_vf32 *v, int n, float *sums)
{
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 a = rk_join_pairs(rk_join_four(v[i], v[i + 4], v[i + 8], v[i + 12]),
                                 rk_join_four(v[i + 1], v[i + 5], v[i + 9], v[i + 13]));
        __m512 b = rk_join_pairs(rk_join_four(v[i + 2], v[i + 6], v[i + 10], v[i + 14]),
                                 rk_join_four(v[i + 3], v[i + 7], v[i + 11], v[i + 15]));
        _mm512_storeu_ps(sums + i, _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd)));
    }
    for (; i + 8 <= n; i += 8) {
        __m512 all = rk_join_pairs(rk_join_four(v[i], v[i + 4], v[i + 2], v[i + 6]),
                                   rk_join_four(v[i + 1], v[i + 5], v[i + 3], v[i + 7]));
        __m256 a = _mm512_castps512_ps256(all), b = _mm512_extractf32x8_ps(all, 1);
        _mm256_storeu_ps(sums + i, _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd)));
    }
    for (; i < n; i++) sums[i] = rk_sum_f32(v[i]);
}

/* Interleave the items of two vectors: the first halves, and the second halves. */
#define RK_ZIP_LOW(a, b) RK_PICK(rk_vu32, a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define RK_ZIP_HIGH(a, b) RK_PICK(rk_vu32, a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
