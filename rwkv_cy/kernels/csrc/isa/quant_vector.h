/* Vectors of four rows for quantized matrices, by the compiler's vector types. Include
 * quant_portable.h, quant_neon.h or quant_dotprod.h, which define the types and the products, before. */

#define RK_Q_LANES 4
#define RK_Q_TOKENS 2
#define RK_Q_WIDE 1
#define RK_Q_STREAMS(dtype) 1
#define RK_Q_STREAMS_AHEAD(dtype) 0

static inline rk_qw rk_qw_load(const uint8_t *p)
{
    rk_qw v;
    memcpy(&v, p, sizeof v);
    return v;
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
#define RK_QW_LEVEL(v) rk_qw_level(v)
#define RK_QF_SCALE(p) rk_qf_scale(p)
#define RK_QI_ZERO(p) rk_qi_zero(p)
#define RK_QI_TIMES(zero, n) ((zero) * (n))
