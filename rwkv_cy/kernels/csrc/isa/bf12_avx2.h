/* Vectors of 16-bit words for bf12: AVX2. */
typedef __m256i rk_bf12_table;

static inline rk_bf12_table rk_bf12_load_table(const uint8_t *exponents)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)exponents));
}

/* Look up bytes of the table by index, from 0 to 15. */
#define RK_BF12_LOOK_UP(table, places) ((rk_vu16)_mm256_shuffle_epi8(table, (__m256i)(places)))

/* Swap the bytes of each word. */
static inline rk_vu16 rk_bf12_swap(rk_vu16 words)
{
    const __m128i order = _mm_setr_epi8(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    return (rk_vu16)_mm256_shuffle_epi8((__m256i)words, _mm256_broadcastsi128_si256(order));
}

/* Sign and mantissa of the first, exponent of the second. */
#define RK_BF12_JOIN(own, exponent) (((own) & RK_BF12_OWN) | ((exponent) & 0x7f80))
