/* Loads weights of any storage type as vectors of factors, for one type of factors and one instruction set.
 *
 * NUM is the type of the factors, NVEC a vector of them; REAL is the type of the sums, VEC a vector of them.
 * VEC_DOT(w, x, acc) adds the products of two NVEC to a VEC. NUM is REAL unless the CPU multiplies bf16. */

#define LANES ((ptrdiff_t)(sizeof(NVEC) / sizeof(NUM)))
#define FN(name) RK_CAT(name, SUFFIX)

static inline NVEC FN(load)(const NUM *p)
{
    NVEC v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Load n lanes; the others are zero. */
static inline NVEC FN(load_part)(const NUM *p, ptrdiff_t n)
{
    NVEC v = {0};
    if (n == LANES) return FN(load)(p);
    memcpy(&v, p, (size_t)n * sizeof(NUM));
    return v;
}

/* LANES weights from column k of a row, widened to factors. */
static inline NVEC FN(weights)(const char *row, int dtype, ptrdiff_t k)
{
#if RK_IS_F32
    if (dtype == RK_F16) return rk_load_f16((const uint16_t *)row + k);
    if (dtype == RK_BF16) return rk_load_bf16((const uint16_t *)row + k);
#endif
    (void)dtype;
    return FN(load)((const NUM *)row + k);
}

static inline NVEC FN(weights_part)(const char *row, int dtype, ptrdiff_t k, ptrdiff_t n)
{
#if RK_IS_F32
    if (dtype != RK_F32) {
        uint16_t part[sizeof(NVEC) / sizeof(NUM)] = {0};
        memcpy(part, (const uint16_t *)row + k, (size_t)n * 2);
        return FN(weights)((const char *)part, dtype, 0);
    }
#endif
    (void)dtype;
    return FN(load_part)((const NUM *)row + k, n);
}

static inline size_t FN(weight_bytes)(int dtype)
{
    return dtype == RK_F64 ? 8 : dtype == RK_F32 ? 4 : 2;
}

#undef LANES
#undef FN
