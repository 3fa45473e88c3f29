/* Vectors of 16-bit words for bf12: any CPU. */
typedef const uint8_t *rk_bf12_table;

static inline rk_bf12_table rk_bf12_load_table(const uint8_t *exponents)
{
    return exponents;
}

/* Look up bytes of the table by index, from 0 to 15. */
static inline rk_vu16 rk_bf12_look_up(rk_bf12_table table, rk_vu16 places)
{
    for (int p = 0; p < 8; p++) places[p] = (uint16_t)(table[places[p] & 15] | table[places[p] >> 8] << 8);
    return places;
}

#define RK_BF12_LOOK_UP(table, places) rk_bf12_look_up(table, places)

/* Swap the bytes of each word. */
static inline rk_vu16 rk_bf12_swap(rk_vu16 words)
{
    return words << 8 | words >> 8;
}

/* Sign and mantissa of the first, exponent of the second. */
#define RK_BF12_JOIN(own, exponent) (((own) & RK_BF12_OWN) | ((exponent) & 0x7f80))
