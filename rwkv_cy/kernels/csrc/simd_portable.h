/* Vectors for any CPU: 16 bytes by the compiler's vector types, multiply and add rounded apart. */
#define RK_NAME portable
#define RK_VECTOR_BYTES 16

#define RK_FMA_F32(a, b, c) ((a) * (b) + (c))
#define RK_FMA_F64(a, b, c) ((a) * (b) + (c))

#define RK_PANEL_ROWS 4
#define RK_PANEL_TOKENS 2

typedef float rk_vf32 __attribute__((vector_size(16)));
typedef double rk_vf64 __attribute__((vector_size(16)));
typedef uint32_t rk_vu32 __attribute__((vector_size(16)));
typedef uint16_t rk_vu16 __attribute__((vector_size(16)));

static inline rk_vf32 rk_load_f16(const uint16_t *p)
{
    rk_vf32 v;
    for (int i = 0; i < 4; i++) v[i] = rk_f16_to_f32(p[i]);
    return v;
}

static inline rk_vf32 rk_load_bf16(const uint16_t *p)
{
    rk_vf32 v;
    for (int i = 0; i < 4; i++) v[i] = rk_bf16_to_f32(p[i]);
    return v;
}

/* Sums of the lanes: halves are added to halves until one is left; + 0 makes a zero positive (columns_body.h). */
static inline float rk_sum_f32(rk_vf32 v)
{
    return (v[0] + v[2]) + (v[1] + v[3]) + 0.0f;
}

static inline double rk_sum_f64(rk_vf64 v)
{
    return v[0] + v[1] + 0.0;
}

static inline void rk_sums_f32(const rk_vf32 *v, int n, float *sums)
{
    for (int i = 0; i < n; i++) sums[i] = rk_sum_f32(v[i]);
}

/* The items of two vectors in turns: of their first halves, and of their second ones. */
#define RK_ZIP_LOW(a, b) RK_PICK(rk_vu32, a, b, 0, 4, 1, 5)
#define RK_ZIP_HIGH(a, b) RK_PICK(rk_vu32, a, b, 2, 6, 3, 7)
