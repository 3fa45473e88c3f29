/* Rounding of float32 to 16 bits, with the error measured in the same pass, for one instruction set. */

/* Lanes where the condition holds are taken from a. */
static inline rk_vu32 narrow_where(rk_vu32 condition, rk_vu32 a, rk_vu32 b)
{
    return (a & condition) | (b & ~condition);
}

/* Round to nearest, ties to even, in the low half of each lane; NaN becomes quiet. */
static inline rk_vu32 narrow_f16(rk_vu32 bits)
{
#ifdef RK_NARROW_F16
    return RK_NARROW_F16(bits);
#else
    const rk_vu32 magnitude = bits & 0x7fffffffu;
    /* Below 2^-14 halves are multiples of 2^-24: adding 1/2, whose last bit is 2^-24, rounds to one. */
    const rk_vu32 subnormal = (rk_vu32)((rk_vf32)magnitude + 0.5f) - 0x3f000000u;
    const rk_vu32 normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    const rk_vu32 nan = 0x7e00u | (magnitude >> 13 & 0x3ffu);
    const rk_vu32 beyond = narrow_where((rk_vu32)(magnitude > 0x7f800000u), nan, (rk_vu32){0} + 0x7c00u);
    const rk_vu32 small = narrow_where((rk_vu32)(magnitude < 0x38800000u), subnormal, normal);
    return (bits >> 16 & 0x8000u) | narrow_where((rk_vu32)(magnitude >= 0x47800000u), beyond, small);
#endif
}

static inline rk_vu32 narrow_bf16(rk_vu32 bits)
{
    const rk_vu32 rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    return narrow_where((rk_vu32)((bits & 0x7fffffffu) > 0x7f800000u), bits >> 16 | 0x40u, rounded);
}

enum { NARROW_LANES = RK_VECTOR_BYTES / 4, NARROW_BLOCK = 256 };

typedef uint16_t narrow_half __attribute__((vector_size(RK_VECTOR_BYTES / 2)));

static inline __attribute__((always_inline)) void narrow_all(const float *x, ptrdiff_t n, int half, uint16_t *out,
                                                             rk_narrowing *sums)
{
    rk_vu32 largest = {0}, infinite = {0}, overflowed = {0}, nan = {0};
    for (ptrdiff_t begin = 0; begin < n; begin += NARROW_BLOCK) {
        /* Sums of a block in float, of all blocks in double. */
        rk_vf32 errors = {0}, squares = {0};
        const ptrdiff_t end = n - begin < NARROW_BLOCK ? n : begin + NARROW_BLOCK;
        for (ptrdiff_t i = begin; i < end; i += NARROW_LANES) {
            const size_t count = (size_t)(end - i < NARROW_LANES ? end - i : NARROW_LANES);
            rk_vu32 bits = {0};
            uint16_t words[NARROW_LANES];
            memcpy(&bits, x + i, count * sizeof *x);
            const rk_vu32 low = half ? narrow_f16(bits) : narrow_bf16(bits);
            const narrow_half narrow = __builtin_convertvector(low, narrow_half);
            memcpy(words, &narrow, sizeof words);
            memcpy(out + i, words, count * sizeof *out);
            const rk_vu32 wide = (rk_vu32)(half ? rk_load_f16(words) : (rk_vf32)(low << 16));
            const rk_vu32 magnitude = bits & 0x7fffffffu;
            const rk_vu32 was_infinite = (rk_vu32)(magnitude == 0x7f800000u);
            const rk_vu32 finite = (rk_vu32)((wide & 0x7fffffffu) < 0x7f800000u);
            infinite -= was_infinite;
            nan -= (rk_vu32)(magnitude > 0x7f800000u);
            overflowed -= (rk_vu32)((wide & 0x7fffffffu) == 0x7f800000u) & ~was_infinite;
            const rk_vu32 value = bits & finite;
            const rk_vf32 error = (rk_vf32)(wide & finite) - (rk_vf32)value;
            const rk_vu32 size = (rk_vu32)error & 0x7fffffffu;
            largest = narrow_where((rk_vu32)(size > largest), size, largest);
            errors += error * error;
            squares += (rk_vf32)value * (rk_vf32)value;
        }
        sums->squared_error += (double)rk_sum_f32(errors);
        sums->squares += (double)rk_sum_f32(squares);
    }
    for (int lane = 0; lane < NARROW_LANES; lane++) {
        const float size = rk_bits_to_f32(largest[lane]);
        if (size > sums->largest) sums->largest = size;
        sums->infinite += infinite[lane];
        sums->overflowed += overflowed[lane];
        sums->nan += nan[lane];
    }
}

static void narrow(const float *x, ptrdiff_t n, int dtype, uint16_t *out, rk_narrowing *sums)
{
    if (dtype == RK_F16)
        narrow_all(x, n, 1, out, sums);
    else
        narrow_all(x, n, 0, out, sums);
}
