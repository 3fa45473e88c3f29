/* Passes over the logits of a vocabulary, for one instruction set. All give the same bits with every instruction set. */

enum { SAMPLE_LANES = RK_VECTOR_BYTES / 4, SAMPLE_SUMS = 16, SAMPLE_BLOCK = 64 };
_Static_assert(SAMPLE_SUMS % SAMPLE_LANES == 0, "sums are whole vectors");
_Static_assert(SAMPLE_BLOCK % SAMPLE_LANES == 0, "blocks are whole vectors");

/* Copy x to `copy` unless that is NULL, and find the largest that is not NaN; returns whether all are finite. */
static int copy_largest(const float *x, ptrdiff_t n, float *copy, float *largest)
{
    enum { VECTORS = SAMPLE_BLOCK / SAMPLE_LANES }; /* independent, since each waits for the one before */
    const rk_vf32 zero = {0};
    rk_vf32 most[VECTORS], sum[VECTORS]; /* x - x is 0 if x is finite, else NaN */
    ptrdiff_t i = 0;
    int finite = 1;
    for (int k = 0; k < VECTORS; k++) most[k] = zero - INFINITY, sum[k] = zero;
    for (; i + SAMPLE_BLOCK <= n; i += SAMPLE_BLOCK)
        for (int k = 0; k < VECTORS; k++) {
            rk_vf32 v;
            memcpy(&v, x + i + k * SAMPLE_LANES, sizeof v);
            if (copy) memcpy(copy + i + k * SAMPLE_LANES, &v, sizeof v);
            most[k] = rk_where_f32(v, most[k], v, most[k]);
            sum[k] += v - v;
        }
    *largest = -INFINITY;
    for (; i < n; i++) {
        if (copy) copy[i] = x[i];
        *largest = x[i] > *largest ? x[i] : *largest;
        finite &= x[i] - x[i] == 0;
    }
    for (int k = 0; k < VECTORS; k++) {
        finite &= rk_sum_f32(sum[k]) == 0;
        for (int lane = 0; lane < SAMPLE_LANES; lane++) *largest = most[k][lane] > *largest ? most[k][lane] : *largest;
    }
    return finite;
}

static inline __attribute__((always_inline)) void add_to_sums(rk_vf32 v, double *sums)
{
    float lanes[SAMPLE_LANES];
    memcpy(lanes, &v, sizeof v);
    for (int k = 0; k < SAMPLE_LANES; k++) sums[k] += (double)lanes[k];
}

static double total_of(const double *sums)
{
    double total = 0;
    for (int k = 0; k < SAMPLE_SUMS; k++) total += sums[k];
    return total;
}

/* weights[i] = exp((x[i] - largest) * scale), 0 where x[i] is -inf or NaN; returns their sum. */
static double weigh(const float *x, ptrdiff_t n, float largest, float scale, float *weights)
{
    double sums[SAMPLE_SUMS] = {0};
    ptrdiff_t i = 0;
    for (; i + SAMPLE_SUMS <= n; i += SAMPLE_SUMS)
        for (int k = 0; k < SAMPLE_SUMS; k += SAMPLE_LANES) {
            rk_vf32 v;
            memcpy(&v, x + i + k, sizeof v);
            v = rk_exp_negative_f32((v - largest) * scale);
            memcpy(weights + i + k, &v, sizeof v);
            add_to_sums(v, sums + k);
        }
    for (; i < n; i++) {
        const rk_vf32 v = rk_exp_negative_f32((rk_vf32){0} + (x[i] - largest) * scale);
        weights[i] = v[0];
        sums[0] += (double)v[0];
    }
    return total_of(sums);
}

/* The places of numbers that are at least `least`, ascending; returns how many. */
static ptrdiff_t at_least(const float *x, ptrdiff_t n, float least, int32_t *places)
{
    const rk_vf32 bound = (rk_vf32){0} + least;
    ptrdiff_t count = 0, i = 0;
    for (; i + SAMPLE_BLOCK <= n; i += SAMPLE_BLOCK) {
        uint64_t found = 0;
        for (int k = 0; k < SAMPLE_BLOCK; k += SAMPLE_LANES) {
            rk_vf32 v;
            memcpy(&v, x + i + k, sizeof v);
            found |= (uint64_t)rk_at_least_f32(v, bound) << k;
        }
        for (; found; found &= found - 1) places[count++] = (int32_t)i + __builtin_ctzll(found);
    }
    for (; i < n; i++)
        if (x[i] >= least) places[count++] = (int32_t)i;
    return count;
}

/* The sum of the weights of orders that are at least `least`; `count` becomes their number, which is below 2^31. */
static double weight_from(const int32_t *orders, const float *weights, ptrdiff_t n, int32_t least, ptrdiff_t *count)
{
    double sums[SAMPLE_SUMS] = {0};
    rk_vi32 counts = {0};
    ptrdiff_t i = 0;
    for (; i + SAMPLE_SUMS <= n; i += SAMPLE_SUMS)
        for (int k = 0; k < SAMPLE_SUMS; k += SAMPLE_LANES) {
            rk_vi32 order, weight;
            memcpy(&order, orders + i + k, sizeof order);
            memcpy(&weight, weights + i + k, sizeof weight);
            const rk_vi32 found = order >= least; /* -1 or 0 */
            counts -= found;
            add_to_sums((rk_vf32)(found & weight), sums + k);
        }
    *count = 0;
    for (int k = 0; k < SAMPLE_LANES; k++) *count += counts[k];
    for (; i < n; i++) {
        int32_t order; /* not read as an integer: it may be the bits of a weight */
        memcpy(&order, orders + i, sizeof order);
        if (order >= least) {
            sums[0] += (double)weights[i];
            ++*count;
        }
    }
    return total_of(sums);
}
