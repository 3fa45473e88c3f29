/* Vectors of 16-bit words for bf12: AVX-512. */
typedef __m512i rk_bf12_table;

static inline rk_bf12_table rk_bf12_load_table(const uint8_t *exponents)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)exponents));
}

/* Look up bytes of the table by index, from 0 to 15. */
#define RK_BF12_LOOK_UP(table, places) ((rk_vu16)_mm512_shuffle_epi8(table, (__m512i)(places)))

/* Swap the bytes of each word. */
static inline rk_vu16 rk_bf12_swap(rk_vu16 words)
{
    const __m128i order = _mm_setr_epi8(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    return (rk_vu16)_mm512_shuffle_epi8((__m512i)words, _mm512_broadcast_i32x4(order));
}

/* Sign and mantissa of the first, exponent of the second. */
#define RK_BF12_JOIN(own, exponent)                                                                                   \
    ((rk_vu16)_mm512_ternarylogic_epi32((__m512i)(own), _mm512_set1_epi16((short)RK_BF12_OWN), (__m512i)(exponent), 0xE2))
