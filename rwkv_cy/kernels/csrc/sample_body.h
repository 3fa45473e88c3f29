/* Passes over the logits of a vocabulary, for one instruction set. */

enum { SAMPLE_LANES = RK_VECTOR_BYTES / 4, SAMPLE_SUMS = 16, SAMPLE_BLOCK = 64 };
_Static_assert(SAMPLE_SUMS % SAMPLE_LANES == 0, "sums are whole vectors");

/* weights[i] = exp((x[i] - most) * scale); returns their sum. The same bits with every instruction set. */
static double weigh(const float *x, ptrdiff_t n, float most, float scale, float *weights)
{
    double sums[SAMPLE_SUMS] = {0}, total = 0;
    ptrdiff_t i = 0;
    for (; i + SAMPLE_SUMS <= n; i += SAMPLE_SUMS) {
        for (int k = 0; k < SAMPLE_SUMS; k += SAMPLE_LANES) {
            rk_vf32 v;
            memcpy(&v, x + i + k, sizeof v);
            v = rk_exp_f32((v - most) * scale);
            memcpy(weights + i + k, &v, sizeof v);
        }
        for (int k = 0; k < SAMPLE_SUMS; k++) sums[k] += (double)weights[i + k];
    }
    for (; i < n; i++) {
        const rk_vf32 v = rk_exp_f32((rk_vf32){0} + (x[i] - most) * scale);
        weights[i] = v[0];
        sums[0] += (double)v[0];
    }
    for (int k = 0; k < SAMPLE_SUMS; k++) total += sums[k];
    return total;
}

/* The places of numbers that are at least `least`, ascending; returns how many. */
static ptrdiff_t at_least(const float *x, ptrdiff_t n, float least, int32_t *places)
{
    ptrdiff_t count = 0, i = 0;
    for (; i + SAMPLE_BLOCK <= n; i += SAMPLE_BLOCK) {
        int32_t any = 0;
        for (int k = 0; k < SAMPLE_BLOCK; k++) any |= x[i + k] >= least;
        if (!any) continue;
        for (int k = 0; k < SAMPLE_BLOCK; k++) {
            places[count] = (int32_t)(i + k);
            count += x[i + k] >= least;
        }
    }
    for (; i < n; i++)
        if (x[i] >= least) places[count++] = (int32_t)i;
    return count;
}
