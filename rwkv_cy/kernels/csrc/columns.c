/* Products with transposed matrices, shared among threads: a few tokens by their nonzero inputs, many by panels. */
#include "columns.h"

static ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t unit) { return (n + unit - 1) / unit * unit; }

static size_t weight_bytes(const rk_matrix *m) { return m->dtype == RK_F64 ? 8 : m->dtype == RK_F32 ? 4 : 2; }

static ptrdiff_t list_items(ptrdiff_t cols) { return round_up(cols + RK_NONZERO_PADDING, 16); }

typedef struct {
    const rk_ops *ops;
    size_t itemsize;
    const rk_matrix *m;
    const char *x;
    char *y;
    ptrdiff_t tokens;
    const int32_t *lists;
    ptrdiff_t counts[RK_PACK_TOKENS];
} few;

static void tiles_piece(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    few *f = context;
    (void)thread;
    for (ptrdiff_t t = 0; t < f->tokens; t++)
        f->ops->columns(f->m, f->x + (size_t)(t * f->m->cols) * f->itemsize, f->lists + t * list_items(f->m->cols),
                        f->counts[t], f->y + (size_t)(t * f->m->rows) * f->itemsize, begin, end);
}

size_t rk_columns_scratch(ptrdiff_t cols, ptrdiff_t tokens)
{
    return (size_t)(list_items(cols) * tokens) * sizeof(int32_t);
}

void rk_columns(const rk_ops *ops, size_t itemsize, const rk_matrix *m, const void *x, ptrdiff_t tokens, void *y,
                void *scratch, int threads)
{
    few f = {.ops = ops, .itemsize = itemsize, .m = m, .x = x, .y = y, .tokens = tokens, .lists = scratch};
    for (ptrdiff_t t = 0; t < tokens; t++)
        f.counts[t] = ops->list_nonzero(f.x + (size_t)(t * m->cols) * itemsize, m->dtype, m->cols,
                                        (int32_t *)scratch + t * list_items(m->cols));
    ptrdiff_t tiles = (m->rows + ops->tile_rows - 1) / ops->tile_rows;
    /* Two tiles at a time read longer parts of a column; one at a time is shared more evenly. */
    rk_parallel(tiles, threads == 1 || tiles >= 8 * (ptrdiff_t)threads ? 2 : 1, threads, tiles_piece, &f);
}

ptrdiff_t rk_strips(const rk_matrix *m) { return (m->rows + RK_STRIP_ROWS - 1) / RK_STRIP_ROWS; }

size_t rk_strip_bytes(const rk_matrix *m)
{
    return (size_t)round_up(RK_STRIP_ROWS * m->cols * (ptrdiff_t)weight_bytes(m), 4096);
}

void rk_strip_panels(const rk_ops *ops, size_t itemsize, const rk_matrix *m, const void *packed, ptrdiff_t tokens,
                     void *y, ptrdiff_t strip, char *turned, void *scratch)
{
    ptrdiff_t first = strip * RK_STRIP_ROWS;
    ptrdiff_t rows = m->rows - first < RK_STRIP_ROWS ? m->rows - first : RK_STRIP_ROWS;
    rk_matrix part = {turned, rows, m->cols, m->dtype, m->scale, 0};
    rk_transpose((const char *)m->data + (size_t)first * weight_bytes(m), weight_bytes(m), (size_t)m->cols,
                 (size_t)rows, (size_t)m->rows, turned, (size_t)m->cols);
    ops->panels(&part, packed, tokens, (char *)y + (size_t)first * itemsize, m->rows, 0,
                (rows + ops->panel_rows - 1) / ops->panel_rows, scratch);
}
