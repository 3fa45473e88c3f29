/* Vectors of four rows for quantized matrices, by the compiler's vector types. Include
 * quant_portable.h or quant_neon.h, which define the types, before. */

#define RK_Q_LANES 4
#define RK_Q_TOKENS 2
#define RK_Q_WIDE 1
#define RK_Q8_RUNS 1
#define RK_Q_PAIRS 0

static inline rk_qw rk_qw_load(const uint8_t *p)
{
    rk_qw v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* The four lower bits of each byte, and above them 2-bit field 0 to 3 of `upper`. */
static inline rk_qw rk_qw_join(rk_qw low, rk_qw upper, int field)
{
    return low | (upper >> 2 * field & 3) << 4;
}

/* The scale and the zero of four rows of q4n. */
static inline rk_qf rk_qf_scale(const uint16_t *p)
{
    uint16_t halves[RK_Q_LANES];
    for (int i = 0; i < RK_Q_LANES; i++) halves[i] = p[i] >> 1 & RK_SCALE_MASK;
    return rk_load_f16(halves);
}

static inline rk_qi rk_qi_zero(const uint16_t *p)
{
    rk_qi zero;
    for (int i = 0; i < RK_Q_LANES; i++) zero[i] = p[i] & RK_ZERO_MASK;
    return zero;
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
#define RK_QI_DOT_PAIR(acc, w, x, w2, x2) (acc) /* not used: RK_Q_PAIRS */
#define RK_QW_LEVEL(v) rk_qw_level(v)
#define RK_QF_SCALE(p) rk_qf_scale(p)
#define RK_QI_ZERO(p) rk_qi_zero(p)
#define RK_QI_TIMES(zero, n) ((zero) * (n))
