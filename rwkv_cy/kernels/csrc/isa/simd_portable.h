/* Vectors for any CPU: 16 bytes by the compiler's vector types, with multiply and add rounded separately. */
#include "rk.h"

#define RK_VECTOR_BYTES 16

#define RK_FMA_F32(a, b, c) ((a) * (b) + (c))

#define RK_PANEL_ROWS 4
#define RK_PANEL_TOKENS 2
#define RK_ROW_TOKENS 2
#define RK_FEW_TOKENS 8

typedef float rk_vf32 __attribute__((vector_size(16)));
typedef uint32_t rk_vu32 __attribute__((vector_size(16)));
typedef uint16_t rk_vu16 __attribute__((vector_size(16)));

typedef int32_t rk_vi32 __attribute__((vector_size(16)));

static inline rk_vu32 rk_load_u16(const uint16_t *p)
{
    uint16_t words __attribute__((vector_size(8)));
    memcpy(&words, p, sizeof words);
    return __builtin_convertvector(words, rk_vu32);
}

/* As rk_f16_to_f32: normal numbers, subnormal ones (a multiple of 2^-24), infinities and NaN, which becomes quiet. */
static inline rk_vf32 rk_load_f16(const uint16_t *p)
{
    const rk_vu32 half = rk_load_u16(p), sign = (half & 0x8000u) << 16, rest = half & 0x7fffu;
    const rk_vu32 normal = (rest << 13) + 0x38000000u;
    const rk_vu32 subnormal = (rk_vu32)(__builtin_convertvector((rk_vi32)rest, rk_vf32) * 0x1p-24f);
    const rk_vu32 special = 0x7f800000u | (rest & 0x3ffu) << 13 | ((rk_vu32)(rest > 0x7c00u) & 0x400000u);
    const rk_vu32 is_special = (rk_vu32)(rest >= 0x7c00u), is_normal = (rk_vu32)(rest >= 0x400u) & ~is_special;
    return (rk_vf32)(sign | (normal & is_normal) | (special & is_special) | (subnormal & ~(is_normal | is_special)));
}

static inline rk_vf32 rk_load_bf16(const uint16_t *p)
{
    return (rk_vf32)(rk_load_u16(p) << 16);
}

/* Bit k: whether a[k] >= b[k]. */
static inline uint32_t rk_at_least_f32(rk_vf32 a, rk_vf32 b)
{
    const rk_vu32 bits = (rk_vu32)(a >= b) & (rk_vu32){1, 2, 4, 8};
    return bits[0] | bits[1] | bits[2] | bits[3];
}

/* Sum of the lanes: halves are added until one lane is left; + 0 turns -0 into 0 (columns_body.h). */
static inline float rk_sum_f32(rk_vf32 v)
{
    return (v[0] + v[2]) + (v[1] + v[3]) + 0.0f;
}

static inline void rk_sums_f32(const rk_vf32 *v, int n, float *sums)
{
    for (int i = 0; i < n; i++) sums[i] = rk_sum_f32(v[i]);
}

/* Interleave the items of two vectors: the first halves, and the second halves. */
#define RK_ZIP_LOW(a, b) RK_PICK(rk_vu32, a, b, 0, 4, 1, 5)
#define RK_ZIP_HIGH(a, b) RK_PICK(rk_vu32, a, b, 2, 6, 3, 7)
