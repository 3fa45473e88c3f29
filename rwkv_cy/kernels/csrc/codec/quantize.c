/* Quantization of float rows for files. Portable C, so that every CPU writes the same bytes. */
#include "codec/levels.h"
#include "codec/quant.h"
#include "scalar.h"

static uint16_t f32_to_f16(float value)
{
    uint32_t bits = rk_f32_to_bits(value), sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits >= 0x47800000u) return (uint16_t)(sign | 0x7c00u); /* 65,536 and above, larger than any scale */
    if (bits < 0x38800000u) {
        /* Below 2^-14, halves are multiples of 2^-24: adding 0.5 makes the FPU round to one. */
        float shifted = rk_bits_to_f32(bits) + 0.5f;
        return (uint16_t)(sign | (rk_f32_to_bits(shifted) - 0x3f000000u));
    }
    uint32_t odd = bits >> 13 & 1;
    return (uint16_t)(sign | (bits + 0xfffu + odd - 0x38000000u) >> 13);
}

static float clip(float value, float low, float high)
{
    value = value > low ? value : low;
    return value < high ? value : high;
}

/* w = q * scale: the scale maps the largest magnitude to 127. */
static void quantize_q8(const float *w, int8_t *q, uint16_t *step_bits)
{
    float largest = 0;
    for (int i = 0; i < RK_Q8_COLS; i++) {
        float magnitude = w[i] < 0 ? -w[i] : w[i];
        largest = magnitude > largest ? magnitude : largest;
    }
    *step_bits = f32_to_f16(largest / 127.0f);
    float step = rk_f16_to_f32(*step_bits);
    float inverse = step > 0 ? 1.0f / step : 0;
    for (int i = 0; i < RK_Q8_COLS; i++) q[i] = (int8_t)rintf(clip(w[i] * inverse, -127, 127));
}

static float round_trip(float value) { return rk_f16_to_f32(f32_to_f16(value)); }

/* w = q * scale + minimum, q from 0 to `most`. Several narrowed ranges are tried and refined by least squares; the one
 * with the smallest squared error is used. `weight`: of each square; their sum is positive. */
static void quantize_affine(const float *w, const float *weight, float most, uint8_t *q, uint16_t *step_bits,
                            uint16_t *least_bits)
{
    const int n = RK_AFFINE_COLS;
    float low = w[0], high = w[0], best = -1, sum = 0, sum_w = 0;
    for (int i = 0; i < n; i++) {
        low = w[i] < low ? w[i] : low;
        high = w[i] > high ? w[i] : high;
        sum += weight[i];
        sum_w += weight[i] * w[i];
    }
    *step_bits = 0;
    *least_bits = f32_to_f16(low);
    for (int i = 0; i < n; i++) q[i] = 0;
    for (int attempt = 0; attempt < 6; attempt++) {
        /* Each narrower by three quarters of a quantization step. */
        float keep = 1.0f - 0.75f / most * (float)attempt;
        float step = (high - low) * keep / most, least = low * keep;
        for (int round = 0; round < 3; round++) {
            step = round_trip(step);
            least = round_trip(least);
            if (!(step > 0)) break;
            float inverse = 1.0f / step, error = 0, sum_q = 0, sum_qq = 0, sum_qw = 0;
            uint8_t tried[RK_AFFINE_COLS];
            for (int i = 0; i < n; i++) {
                float level = rintf(clip((w[i] - least) * inverse, 0, most));
                float off = level * step + least - w[i], weighted = weight[i] * level;
                tried[i] = (uint8_t)level;
                error += weight[i] * (off * off);
                sum_q += weighted;
                sum_qq += weighted * level;
                sum_qw += weighted * w[i];
            }
            if (best < 0 || error < best) {
                best = error;
                *step_bits = f32_to_f16(step);
                *least_bits = f32_to_f16(least);
                memcpy(q, tried, sizeof tried);
            }
            /* The least-squares line through (q, w) gives the next scale and minimum. */
            float spread = sum * sum_qq - sum_q * sum_q;
            if (!(spread > 0)) break;
            step = (sum * sum_qw - sum_q * sum_w) / spread;
            least = (sum_w - step * sum_q) / sum;
        }
    }
}

void rk_quantize(const float *w, ptrdiff_t rows, ptrdiff_t cols, int dtype, const float *importance,
                 void *out)
{
    const ptrdiff_t width = rk_q_cols(dtype), blocks = rk_q_blocks(dtype, cols), bytes = rk_q_bytes(dtype);
    const ptrdiff_t groups = (rows + RK_Q_ROWS - 1) / RK_Q_ROWS;
    memset(out, 0, (size_t)(groups * blocks * bytes));
    if (dtype == RK_Q4N) {
        rk_quantize_levels(w, rows, cols, importance, out);
        return;
    }
    for (ptrdiff_t r = 0; r < rows; r++) {
        for (ptrdiff_t b = 0; b < blocks; b++) {
            char *block = (char *)out + (r / RK_Q_ROWS * blocks + b) * bytes;
            ptrdiff_t lane = r % RK_Q_ROWS;
            uint16_t *steps = (uint16_t *)block;
            uint8_t *values = (uint8_t *)block + rk_q_head(dtype);
            uint8_t *uppers = (uint8_t *)block + RK_Q6_UPPER;
            ptrdiff_t count = cols - b * width < width ? cols - b * width : width;
            float part[RK_AFFINE_COLS], weight[RK_AFFINE_COLS];
            /* Padding repeats the last weight, so that it does not widen the range. */
            for (ptrdiff_t i = 0; i < width; i++) part[i] = w[r * cols + b * width + (i < count ? i : count - 1)];
            if (dtype == RK_Q8) {
                int8_t q[RK_Q8_COLS];
                quantize_q8(part, q, &steps[lane]);
                for (ptrdiff_t i = 0; i < width; i++)
                    values[i / 4 * 64 + lane * 4 + i % 4] = i < count ? (uint8_t)q[i] : 0;
            } else {
                uint8_t q[RK_AFFINE_COLS];
                rk_block_importance(importance == NULL ? NULL : importance + b * width, count, width, weight);
                quantize_affine(part, weight, dtype == RK_Q4 ? 15 : 63, q, &steps[lane], &steps[RK_Q_ROWS + lane]);
                for (ptrdiff_t i = 0; i < count; i++) {
                    values[i / 8 * 64 + lane * 4 + i % 4] |= (uint8_t)((q[i] & 15) << (i % 8 < 4 ? 0 : 4));
                    if (dtype == RK_Q6)
                        uppers[i / 16 * 64 + lane * 4 + i % 4] |= (uint8_t)(q[i] >> 4 << i % 16 / 4 * 2);
                }
            }
        }
    }
}

void rk_dequantize(const void *packed, ptrdiff_t rows, ptrdiff_t cols, int dtype, float *w)
{
    const ptrdiff_t width = rk_q_cols(dtype), blocks = rk_q_blocks(dtype, cols), bytes = rk_q_bytes(dtype);
    for (ptrdiff_t r = 0; r < rows; r++) {
        for (ptrdiff_t k = 0; k < cols; k++) {
            const char *block = (const char *)packed + (r / RK_Q_ROWS * blocks + k / width) * bytes;
            ptrdiff_t lane = r % RK_Q_ROWS, i = k % width;
            const uint16_t *steps = (const uint16_t *)block;
            const uint8_t *values = (const uint8_t *)block + rk_q_head(dtype);
            const uint8_t *uppers = (const uint8_t *)block + RK_Q6_UPPER;
            float step = rk_f16_to_f32(steps[lane]);
            if (dtype == RK_Q4N) {
                static const int8_t levels[16] = {RK_LEVELS};
                const int q = values[i / 8 * 64 + lane * 4 + i % 4] >> (i % 8 < 4 ? 0 : 4) & 15;
                const float scale = rk_f16_to_f32(steps[lane] >> 1 & RK_SCALE_MASK) * RK_SCALE_UNIT;
                w[r * cols + k] = (float)(levels[q] - (steps[lane] & RK_ZERO_MASK)) * scale;
            } else if (dtype == RK_Q8) {
                w[r * cols + k] = (float)(int8_t)values[i / 4 * 64 + lane * 4 + i % 4] * step;
            } else {
                uint8_t pair = values[i / 8 * 64 + lane * 4 + i % 4];
                int q = i % 8 < 4 ? pair & 15 : pair >> 4;
                if (dtype == RK_Q6) q |= (uppers[i / 16 * 64 + lane * 4 + i % 4] >> i % 16 / 4 * 2 & 3) << 4;
                w[r * cols + k] = (float)q * step + rk_f16_to_f32(steps[RK_Q_ROWS + lane]);
            }
        }
    }
}
