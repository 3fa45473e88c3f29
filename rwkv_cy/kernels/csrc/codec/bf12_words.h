/* bf12 decoded to bfloat16, for one instruction set: 128 columns of a row at a time, in any order. */

/* Vectors for the 32 words of one part of a chunk. */
#define BF12_PARTS (64 / RK_VECTOR_BYTES)
#define BF12_LANES (RK_VECTOR_BYTES / (int)sizeof(float))

/* Decode vector `part` of a chunk, without escapes: words[q] has columns 32 q + l in its even words and 32 q + 16 + l
 * in its odd ones, for l from part * BF12_LANES on. */
static inline __attribute__((always_inline)) void bf12_part(const uint8_t *chunk, rk_bf12_table table, int part,
                                                            rk_vu16 words[4])
{
    rk_vu16 first, second, codes;
    memcpy(&first, chunk + part * RK_VECTOR_BYTES, sizeof first);
    memcpy(&second, chunk + 64 + part * RK_VECTOR_BYTES, sizeof second);
    memcpy(&codes, chunk + RK_BF12_CODES + part * RK_VECTOR_BYTES, sizeof codes);
    /* Exponents of columns q = 0 and 2 in the two bytes of a word, and of 1 and 3. */
    rk_vu16 even = RK_BF12_LOOK_UP(table, codes & 0x0f0f);
    rk_vu16 odd = RK_BF12_LOOK_UP(table, codes >> 4 & 0x0f0f);
    words[0] = RK_BF12_JOIN(first, even << 7);
    words[1] = RK_BF12_JOIN(rk_bf12_swap(first), odd << 7);
    words[2] = RK_BF12_JOIN(second, even >> 1);
    words[3] = RK_BF12_JOIN(rk_bf12_swap(second), odd >> 1);
}

/* BF12_LANES columns from 16 * half + part * BF12_LANES, as floats. */
static inline __attribute__((always_inline)) rk_vf32 bf12_floats(const rk_vu16 words[4], int half)
{
    rk_vu32 pairs = (rk_vu32)words[half / 2];
    return (rk_vf32)(half % 2 ? pairs & 0xffff0000u : pairs << 16);
}

/* Columns k to k + 127 of a row, with escapes; k is a multiple of 128, and values beyond the last column are
 * unspecified. */
static void bf12_words(const rk_matrix *m, ptrdiff_t row, ptrdiff_t k, uint16_t *out)
{
    const uint8_t *chunk = rk_bf12_chunk(m, row, k);
    rk_bf12_table table = rk_bf12_load_table(m->data);
    for (int part = 0; part < BF12_PARTS; part++) {
        rk_vu16 words[4];
        bf12_part(chunk, table, part, words);
        for (int q = 0; q < 4; q++) {
            uint32_t pairs[BF12_LANES];
            memcpy(pairs, &words[q], sizeof pairs);
            uint16_t *to = out + 32 * q + part * BF12_LANES;
            for (int l = 0; l < BF12_LANES; l++) to[l] = (uint16_t)pairs[l];
            for (int l = 0; l < BF12_LANES; l++) to[16 + l] = (uint16_t)(pairs[l] >> 16);
        }
    }
    const rk_bf12_lists lists = rk_bf12_lists_of(m);
    for (ptrdiff_t i = rk_bf12_start(lists, row), end = rk_bf12_start(lists, row + 1); i < end; i++) {
        rk_bf12_escape escape = rk_bf12_get(lists, i);
        if (escape.column >= k && escape.column < k + RK_BF12_COLS) out[escape.column - k] = escape.bits;
    }
}
