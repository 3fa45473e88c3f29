/* Quantization to q4n, for one instruction set: a search for the scale and the zero of each row of a block.
 *
 * w = (level[q] - zero) * scale. The sixteen rows of a group are processed together: loops over `l`, which the compiler
 * turns into vectors, compute one row each and add nothing across rows, so that every instruction set gives the same
 * bytes. */

enum { LEVELS_(L) = RK_Q_ROWS, LEVELS_(W) = RK_Q8_COLS };

/* A block: weights in units of RK_SCALE_UNIT, one column after the other, and what does not depend on scale and zero.
 * `g`: weights of the squared errors. */
typedef struct {
    float w[RK_Q8_COLS][RK_Q_ROWS], g[RK_Q8_COLS];
    float low[RK_Q_ROWS], high[RK_Q_ROWS], sum_w[RK_Q_ROWS], sum_ww[RK_Q_ROWS], sum;
} LEVELS_(block);

/* A scale and a zero for each row. */
typedef struct {
    float scale[RK_Q_ROWS], zero[RK_Q_ROWS];
} LEVELS_(choice);

/* Number 0 to 7 of the nearest level in the upper half, by the distance from the middle of all levels; and the distance
 * of that level. */
static inline __attribute__((always_inline)) float LEVELS_(nearest)(float a, int *number)
{
    /* Halfway between two levels, and how far the upper one is above the lower one. */
    static const float above[7] = {3, 6, 9.5f, 13.5f, 17.5f, 22.5f, 28.5f}, steps[7] = {3, 3, 4, 4, 4, 6, 6};
    float level = 1.5f;
    int n = 0;
#pragma GCC unroll 7
    for (int i = 0; i < 7; i++) {
        level += a > above[i] ? steps[i] : 0;
        n += a > above[i];
    }
    *number = n;
    return level;
}

/* The nearest of the sixteen levels, and its number. */
static inline __attribute__((always_inline)) float LEVELS_(level)(float t, int *number)
{
    const float middle = RK_TOP_LEVEL / 2.0f;
    const float u = t - middle, a = u < 0 ? -u : u;
    int n;
    const float distance = LEVELS_(nearest)(a, &n);
    *number = u < 0 ? 7 - n : 8 + n;
    return middle + (u < 0 ? -distance : distance);
}

static inline __attribute__((always_inline)) float LEVELS_(nearest_integer)(float v)
{
    return v + 0x1.8p23f - 0x1.8p23f;
}

/* The nearest scale that can be stored: multiples of 2^-19 below 2^-14, above them five bits after the first. */
static inline __attribute__((always_inline)) float LEVELS_(stored)(float scale)
{
    const float small = scale + 0x1p+4f - 0x1p+4f;
    const float large = rk_bits_to_f32((rk_f32_to_bits(scale) + 0x1ffffu + (rk_f32_to_bits(scale) >> 18 & 1)) & ~0x3ffffu);
    return scale < 0x1p-14f ? small : large;
}

/* Read `count` columns of `rows` rows, `cols` apart; padding is zeros, of no weight. */
static void LEVELS_(read)(LEVELS_(block) *b, const float *w, ptrdiff_t rows, ptrdiff_t cols, const float *importance,
                          ptrdiff_t count)
{
    memset(b, 0, sizeof *b);
    rk_block_importance(importance, count, count, b->g);
    for (ptrdiff_t l = 0; l < rows; l++)
        for (ptrdiff_t i = 0; i < count; i++) b->w[i][l] = w[l * cols + i] / RK_SCALE_UNIT;
    for (int i = 0; i < LEVELS_(W); i++) {
        const float g = b->g[i];
        b->sum += g;
        for (int l = 0; l < LEVELS_(L); l++) {
            const float v = b->w[i][l];
            b->low[l] = v < b->low[l] ? v : b->low[l];
            b->high[l] = v > b->high[l] ? v : b->high[l];
            b->sum_w[l] += g * v;
            b->sum_ww[l] += g * v * v;
        }
    }
}

/* Try a choice, made storable first: if its error is smaller than that of `best`, it becomes the best. Replaced by that
 * of the least squares for its levels. */
static void LEVELS_(attempt)(const LEVELS_(block) *b, LEVELS_(choice) *c, LEVELS_(choice) *best, float *least)
{
    float inverse[RK_Q_ROWS], sum_n[RK_Q_ROWS] = {0}, sum_nn[RK_Q_ROWS] = {0}, sum_nw[RK_Q_ROWS] = {0};
    for (int l = 0; l < LEVELS_(L); l++) {
        float zero = c->zero[l] > 0 ? c->zero[l] : 0;
        c->scale[l] = LEVELS_(stored)(c->scale[l]);
        c->zero[l] = LEVELS_(nearest_integer)(zero < RK_TOP_LEVEL ? zero : RK_TOP_LEVEL);
        inverse[l] = c->scale[l] > 0 ? 1.0f / c->scale[l] : 0;
    }
    for (int i = 0; i < LEVELS_(W); i++) {
        const float g = b->g[i];
        for (int l = 0; l < LEVELS_(L); l++) {
            int number;
            const float v = b->w[i][l], n = LEVELS_(level)(v * inverse[l] + c->zero[l], &number) - c->zero[l];
            const float weighted = g * n;
            sum_n[l] += weighted;
            sum_nn[l] += weighted * n;
            sum_nw[l] += weighted * v;
        }
    }
    for (int l = 0; l < LEVELS_(L); l++) {
        const float scale = c->scale[l];
        const float error = b->sum_ww[l] + scale * (scale * sum_nn[l] - 2 * sum_nw[l]);
        const int better = error < least[l];
        least[l] = better ? error : least[l];
        best->scale[l] = better ? scale : best->scale[l];
        best->zero[l] = better ? c->zero[l] : best->zero[l];
        /* The line through (n, w), then the best zero for the storable scale. */
        const float spread = b->sum * sum_nn[l] - sum_n[l] * sum_n[l];
        const float slope = (b->sum * sum_nw[l] - sum_n[l] * b->sum_w[l]) / (spread > 0 ? spread : 1);
        const float next = LEVELS_(stored)(spread > 0 && slope > 0 ? slope : scale);
        const float offset = (b->sum_w[l] - next * sum_n[l]) / b->sum;
        c->scale[l] = next;
        c->zero[l] = c->zero[l] - (next > 0 ? offset / next : 0);
    }
}

/* Narrowed ranges, each refined once by least squares; then neighbours of the best choice. */
static void LEVELS_(search)(const LEVELS_(block) *b, LEVELS_(choice) *best)
{
    static const float kept[][2] = {{1, 1}, {0.92f, 0.92f}, {1, 0.88f}, {0.88f, 1}, {0.84f, 0.84f}};
    static const float around[][2] = {{1, 1},          {1, -1},         {1.03125f, 0},  {0.96875f, 0},
                                      {1.03125f, 1}, {0.96875f, -1}, {1.03125f, -1}, {0.96875f, 1}};
    float least[RK_Q_ROWS];
    LEVELS_(choice) c;
    for (int l = 0; l < LEVELS_(L); l++) least[l] = INFINITY, best->scale[l] = best->zero[l] = 0;
    for (size_t k = 0; k < sizeof kept / sizeof *kept; k++) {
        for (int l = 0; l < LEVELS_(L); l++) {
            const float low = b->low[l] * kept[k][0], high = b->high[l] * kept[k][1];
            c.scale[l] = (high - low) / RK_TOP_LEVEL;
            c.zero[l] = c.scale[l] > 0 ? -low / c.scale[l] : 0;
        }
        LEVELS_(attempt)(b, &c, best, least);
        LEVELS_(attempt)(b, &c, best, least);
    }
    for (size_t k = 0; k < sizeof around / sizeof *around; k++) {
        for (int l = 0; l < LEVELS_(L); l++) {
            c.scale[l] = best->scale[l] * around[k][0];
            c.zero[l] = best->zero[l] + around[k][1];
        }
        LEVELS_(attempt)(b, &c, best, least);
    }
}

/* The word of a row. */
static uint16_t LEVELS_(word)(float scale, float zero)
{
    const uint32_t bits = rk_f32_to_bits(scale);
    const uint32_t half = scale < 0x1p-14f ? (uint32_t)(scale * 0x1p+24f) : (bits >> 13) - (112u << 10);
    return (uint16_t)(half << 1 | (uint32_t)zero);
}

static void LEVELS_(write)(const LEVELS_(block) *b, const LEVELS_(choice) *c, ptrdiff_t rows, ptrdiff_t count, char *out)
{
    uint16_t *words = (uint16_t *)out;
    uint8_t *values = (uint8_t *)out + rk_q_head(RK_Q4N);
    for (ptrdiff_t l = 0; l < rows; l++) {
        const float scale = c->scale[l], inverse = scale > 0 ? 1.0f / scale : 0;
        /* Infinite for weights that a scale of float16 cannot hold, whose squares may be infinite. */
        const int fits = b->high[l] - b->low[l] <= RK_TOP_LEVEL * 0x1p+15f;
        words[l] = fits ? LEVELS_(word)(scale, c->zero[l]) : RK_SCALE_INFINITE;
        for (ptrdiff_t i = 0; i < count; i++) {
            int number;
            LEVELS_(level)(b->w[i][l] * inverse + c->zero[l], &number);
            values[i / 8 * 64 + l * 4 + i % 4] |= (uint8_t)(number << (i % 8 < 4 ? 0 : 4));
        }
    }
}

static void LEVELS_(matrix)(const float *w, ptrdiff_t rows, ptrdiff_t cols, const float *importance, char *out)
{
    const ptrdiff_t width = rk_q_cols(RK_Q4N), bytes = rk_q_bytes(RK_Q4N);
    for (ptrdiff_t r = 0; r < rows; r += RK_Q_ROWS) {
        for (ptrdiff_t k = 0; k < cols; k += width, out += bytes) {
            const ptrdiff_t height = rows - r < RK_Q_ROWS ? rows - r : RK_Q_ROWS;
            const ptrdiff_t count = cols - k < width ? cols - k : width;
            LEVELS_(block) block;
            LEVELS_(choice) best;
            LEVELS_(read)(&block, w + r * cols + k, height, cols, importance == NULL ? NULL : importance + k, count);
            LEVELS_(search)(&block, &best);
            LEVELS_(write)(&block, &best, height, count, out);
        }
    }
}
