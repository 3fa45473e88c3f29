/* Tiles in plain C, with the checks for which the CPU has exceptions: a model for CPUs that do not have them. */
#include "codec/quant.h"
#include "isa/tiles.h"
#include "scalar.h"

#include <stdio.h>
#include <stdlib.h>

enum { MODEL_TILES = 8 };

typedef struct {
    int configured;
    rk_tile_shapes shapes;
    uint8_t data[MODEL_TILES][RK_TILE_ROWS][RK_TILE_BYTES];
} model_state;

static _Thread_local model_state model;

static void model_expect(int holds, const char *what)
{
    if (holds) return;
    fprintf(stderr, "tiles: expected %s\n", what);
    abort();
}

static void rk_tiles_begin(const rk_tile_shapes *shapes)
{
    static const rk_tile_shapes zeros;
    model_expect(!model.configured, "tiles that are released before they are configured again");
    model.shapes = *shapes;
    model.configured = 1;
    model_expect(shapes->palette == 1 && shapes->start_row == 0, "palette 1");
    model_expect(!memcmp(shapes->reserved, zeros.reserved, sizeof zeros.reserved), "zeros in reserved bytes");
    for (int t = 0; t < 16; t++) {
        const int rows = shapes->rows[t], bytes = shapes->row_bytes[t];
        model_expect(!rows == !bytes && rows <= RK_TILE_ROWS && bytes <= RK_TILE_BYTES, "a shape that a tile can have");
        model_expect(t < MODEL_TILES || rows == 0, "eight tiles");
    }
    memset(model.data, 0, sizeof model.data);
}

static void rk_tiles_end(void)
{
    model_expect(model.configured, "configured tiles");
    model.configured = 0;
}

static void model_check(int t) { model_expect(model.configured && model.shapes.rows[t] > 0, "a configured tile"); }

static void model_zero(int t)
{
    model_check(t);
    memset(model.data[t], 0, sizeof model.data[t]);
}

static void model_load(int t, const void *p, ptrdiff_t stride)
{
    model_zero(t);
    for (int r = 0; r < model.shapes.rows[t]; r++)
        memcpy(model.data[t][r], (const char *)p + r * stride, model.shapes.row_bytes[t]);
}

static void model_store(int t, void *p, ptrdiff_t stride)
{
    model_check(t);
    for (int r = 0; r < model.shapes.rows[t]; r++)
        memcpy((char *)p + r * stride, model.data[t][r], model.shapes.row_bytes[t]);
}

static void model_check_product(int c, int a, int b)
{
    model_check(c), model_check(a), model_check(b);
    model_expect(c != a && c != b && a != b, "three tiles");
    model_expect(model.shapes.rows[c] == model.shapes.rows[a], "as many rows of sums as of the first factor");
    model_expect(model.shapes.row_bytes[c] == model.shapes.row_bytes[b], "rows of sums as wide as of the second factor");
    model_expect(model.shapes.row_bytes[a] == 4 * model.shapes.rows[b], "factors with the same columns");
}

/* The bytes of a are signed, those of b if `is_signed`. */
static __attribute__((unused)) void model_dot_bytes(int c, int a, int b, int is_signed)
{
    model_check_product(c, a, b);
    for (int m = 0; m < model.shapes.rows[c]; m++)
        for (int n = 0; n < model.shapes.row_bytes[c] / 4; n++) {
            int32_t sum;
            memcpy(&sum, &model.data[c][m][4 * n], sizeof sum);
            for (int k = 0; k < model.shapes.row_bytes[a]; k++) {
                const uint8_t byte = model.data[b][k / 4][4 * n + k % 4];
                sum += (int8_t)model.data[a][m][k] * (is_signed ? (int8_t)byte : (int)byte);
            }
            memcpy(&model.data[c][m][4 * n], &sum, sizeof sum);
        }
}

static float model_bf16(int t, int row, int i)
{
    uint16_t word;
    memcpy(&word, &model.data[t][row][2 * i], sizeof word);
    return rk_bf16_to_f32(word);
}

/* Even and odd columns are summed separately, and their sum is added. */
static __attribute__((unused)) void model_dot_bf16(int c, int a, int b)
{
    model_check_product(c, a, b);
    for (int m = 0; m < model.shapes.rows[c]; m++)
        for (int n = 0; n < model.shapes.row_bytes[c] / 4; n++) {
            float sum, halves[2] = {0, 0};
            memcpy(&sum, &model.data[c][m][4 * n], sizeof sum);
            for (int k = 0; k < model.shapes.row_bytes[a] / 2; k++)
                halves[k % 2] = fmaf(model_bf16(a, m, k), model_bf16(b, k / 2, 2 * n + k % 2), halves[k % 2]);
            sum += halves[0] + halves[1];
            memcpy(&model.data[c][m][4 * n], &sum, sizeof sum);
        }
}

static __attribute__((unused)) rk_tf model_fma(rk_tf a, rk_tf b, rk_tf c)
{
    for (int i = 0; i < 16; i++) c[i] = fmaf(a[i], b[i], c[i]);
    return c;
}

static __attribute__((unused)) rk_tf model_f16(const uint16_t *p)
{
    rk_tf v = {0};
    for (int i = 0; i < 16; i++) v[i] = rk_f16_to_f32(p[i]);
    return v;
}

static __attribute__((unused)) rk_tb model_level(rk_tb v)
{
    static const uint8_t levels[] = {RK_LEVELS};
    for (int i = 0; i < 64; i++) v[i] = levels[v[i]];
    return v;
}

#define RK_TILE_ZERO(t) model_zero(t)
#define RK_TILE_LOAD(t, p, stride) model_load(t, p, stride)
#define RK_TILE_STORE(t, p, stride) model_store(t, p, stride)
#define RK_TILE_DOT_SS(c, a, b) model_dot_bytes(c, a, b, 1)
#define RK_TILE_DOT_SU(c, a, b) model_dot_bytes(c, a, b, 0)
#define RK_TILE_DOT_BF16(c, a, b) model_dot_bf16(c, a, b)
#define RK_TF_FMA(a, b, c) model_fma(a, b, c)
#define RK_TF_F16(p) model_f16(p)
#define RK_TB_LEVEL(v) model_level(v)
