/* Vectors of NEON (every 64-bit ARM): 16 bytes. */
#define RK_VECTOR_BYTES 16

#define RK_FMA_F32(a, b, c) ((rk_vf32)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))

#define RK_PANEL_ROWS 6
#define RK_PANEL_TOKENS 4
#define RK_ROW_TOKENS 4
#define RK_FEW_TOKENS 16

typedef float rk_vf32 __attribute__((vector_size(16)));
typedef uint32_t rk_vu32 __attribute__((vector_size(16)));
typedef uint16_t rk_vu16 __attribute__((vector_size(16)));

static inline rk_vf32 rk_load_f16(const uint16_t *p)
{
    return (rk_vf32)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

static inline rk_vf32 rk_load_bf16(const uint16_t *p)
{
    return (rk_vf32)vshll_n_u16(vld1_u16(p), 16);
}

/* Round to float16, in the low half of each lane, by the rounding mode of the thread. */
#define RK_NARROW_F16(bits) ((rk_vu32)vmovl_u16(vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)(bits)))))

/* Bit k: whether a[k] >= b[k]. */
static inline uint32_t rk_at_least_f32(rk_vf32 a, rk_vf32 b)
{
    const uint32x4_t bits = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcgeq_f32((float32x4_t)a, (float32x4_t)b), bits));
}

/* Sum of the lanes: halves are added until one lane is left; + 0 turns -0 into 0 (columns_body.h). */
static inline float rk_sum_f32(rk_vf32 v)
{
    float32x2_t s = vadd_f32(vget_low_f32((float32x4_t)v), vget_high_f32((float32x4_t)v));
    return vget_lane_f32(s, 0) + vget_lane_f32(s, 1) + 0.0f;
}

/* The sums of four vectors at once, each in the order of rk_sum_f32. */
static inline float32x4_t rk_join_halves(rk_vf32 a, rk_vf32 b)
{
    float32x4_t low = vcombine_f32(vget_low_f32((float32x4_t)a), vget_low_f32((float32x4_t)b));
    float32x4_t high = vcombine_f32(vget_high_f32((float32x4_t)a), vget_high_f32((float32x4_t)b));
    return vaddq_f32(low, high);
}

static inline __attribute__((always_inline)) void rk_sums_f32(const rk_vf32 *v, int n, float *sums)
{
    int i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(sums + i, vpaddq_f32(rk_join_halves(v[i], v[i + 1]), rk_join_halves(v[i + 2], v[i + 3])));
    for (; i < n; i++) sums[i] = rk_sum_f32(v[i]);
}

/* Interleave the items of two vectors: the first halves, and the second halves. */
#define RK_ZIP_LOW(a, b) RK_PICK(rk_vu32, a, b, 0, 4, 1, 5)
#define RK_ZIP_HIGH(a, b) RK_PICK(rk_vu32, a, b, 2, 6, 3, 7)
