/* Vectors of 16-bit words for bf12: NEON. */
typedef uint8x16_t rk_bf12_table;

static inline rk_bf12_table rk_bf12_load_table(const uint8_t *exponents)
{
    return vld1q_u8(exponents);
}

/* Look up bytes of the table by index, from 0 to 15. */
#define RK_BF12_LOOK_UP(table, places) ((rk_vu16)vqtbl1q_u8(table, (uint8x16_t)(places)))

/* Swap the bytes of each word. */
static inline rk_vu16 rk_bf12_swap(rk_vu16 words)
{
    return (rk_vu16)vrev16q_u8((uint8x16_t)words);
}

/* Sign and mantissa of the first, exponent of the second. */
#define RK_BF12_JOIN(own, exponent)                                                                                   \
    ((rk_vu16)vbslq_u16(vdupq_n_u16(RK_BF12_OWN), (uint16x8_t)(own), (uint16x8_t)(exponent)))
