/* Vectors of four rows for quantized matrices, by the compiler's vector types; on 64-bit ARM with NEON's products. */
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#define RK_Q_LANES 4
#define RK_Q_TOKENS 2
#define RK_Q_WIDE 1

typedef int32_t rk_qi __attribute__((vector_size(16)));
typedef int8_t rk_qx __attribute__((vector_size(16)));
typedef uint8_t rk_qw __attribute__((vector_size(16)));
typedef rk_vf32 rk_qf;

static inline rk_qw rk_qw_load(const uint8_t *p)
{
    rk_qw v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline rk_qi rk_qi_dot(rk_qi acc, rk_qx w, rk_qx x)
{
#if defined(__aarch64__)
    int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)w), vget_low_s8((int8x16_t)x));
    int16x8_t high = vmull_s8(vget_high_s8((int8x16_t)w), vget_high_s8((int8x16_t)x));
    return acc + (rk_qi)vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
#else
    for (int r = 0; r < 4; r++)
        acc[r] += w[4 * r] * x[4 * r] + w[4 * r + 1] * x[4 * r + 1] + w[4 * r + 2] * x[4 * r + 2] +
                  w[4 * r + 3] * x[4 * r + 3];
    return acc;
#endif
}

/* Four lower bits of each byte, and above them field number 0 to 3 of those of two bits in `upper`. */
static inline rk_qw rk_qw_join(rk_qw low, rk_qw upper, int field)
{
    return low | (upper >> 2 * field & 3) << 4;
}

static inline rk_qf rk_qf_store(float *p, rk_qf v)
{
    memcpy(p, &v, sizeof v);
    return v;
}

#define RK_QX_SET(four) ((rk_qx)((rk_qi){0} + (four)))
#define RK_QI_SET(n) ((rk_qi){0} + (n))
#define RK_Q8_START(total) 0
#define RK_QW_LOAD(p) rk_qw_load(p)
#define RK_QW_LOW(v) ((v) & 15)
#define RK_QW_HIGH(v) ((v) >> 4)
#define RK_QW_JOIN(low, upper, field) rk_qw_join(low, upper, field)
#define RK_QI_DOT8(acc, w, x) rk_qi_dot(acc, (rk_qx)(w), x)
#define RK_QI_DOT4(acc, w, x) rk_qi_dot(acc, (rk_qx)(w), x)
#define RK_QI_ADD(a, b) ((a) + (b))
#define RK_QF_ZERO() ((rk_qf){0})
#define RK_QF_SET(x) ((rk_qf){0} + (x))
#define RK_QF_F16(p) rk_load_f16(p)
#define RK_QF_OF(i) __builtin_convertvector(i, rk_qf)
#define RK_QF_MUL(a, b) ((a) * (b))
#define RK_QF_FMA(a, b, c) RK_FMA_F32(a, b, c)
#define RK_QF_STORE(p, v) rk_qf_store(p, v)
