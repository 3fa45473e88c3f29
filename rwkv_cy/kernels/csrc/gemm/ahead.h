/* Prefetch of the weights that are packed next. */
#ifndef RK_AHEAD_H
#define RK_AHEAD_H

#include "codec/bf12.h"
#include "codec/quant.h"

/* Weights to prefetch: `rows` runs of `bytes` bytes, `stride` bytes apart; `at` is the position in the current run. */
typedef struct {
    const char *row;
    ptrdiff_t stride, rows, bytes, at;
} rk_ahead;

/* `count` columns from column k on, of `rows` rows from `first` on. */
static inline rk_ahead rk_ahead_of(const rk_matrix *m, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t k, ptrdiff_t count)
{
    const ptrdiff_t size = m->dtype == RK_F64 ? 8 : m->dtype == RK_F32 ? 4 : 2;
    if (first >= m->rows) return (rk_ahead){NULL, 0, 0, 0, 0};
    if (first + rows > m->rows) rows = m->rows - first;
    if (m->dtype == RK_BF12) { /* groups of rows with interleaved columns */
        const char *group = (const char *)rk_bf12_chunk(m, first / RK_BF12_ROWS * RK_BF12_ROWS, k);
        return (rk_ahead){group, rk_bf12_group(m->cols), (rows + RK_BF12_ROWS - 1) / RK_BF12_ROWS, rk_bf12_group(count), 0};
    }
    if (m->transposed) {
        const ptrdiff_t columns = m->cols - k < count ? m->cols - k : count;
        return (rk_ahead){(const char *)m->data + (k * m->rows + first) * size, m->rows * size, columns, rows * size, 0};
    }
    return (rk_ahead){(const char *)m->data + (first * m->cols + k) * size, m->cols * size, rows, count * size, 0};
}

/* Groups of quantized rows, which are processed `wide` together and `run` blocks at a time: what follows the blocks that
 * end before `stop` of groups g to g + wide. */
static inline rk_ahead rk_ahead_of_groups(const rk_matrix *m, ptrdiff_t g, ptrdiff_t wide, ptrdiff_t end, ptrdiff_t stop,
                                          ptrdiff_t run)
{
    const ptrdiff_t blocks = rk_q_blocks(m->dtype, m->cols), bytes = rk_q_bytes(m->dtype);
    if (stop == blocks) g += wide, stop = 0;
    if (g >= end) return (rk_ahead){NULL, 0, 0, 0, 0};
    const ptrdiff_t rows = end - g < wide ? end - g : wide, count = blocks - stop < run ? blocks - stop : run;
    return (rk_ahead){(const char *)m->data + (g * blocks + stop) * bytes, blocks * bytes, rows, count * bytes, 0};
}

/* Prefetch the next `lines` cache lines. Few at a time: more than the CPU's miss buffers would stall it. */
static inline void rk_prefetch_lines(rk_ahead *next, ptrdiff_t lines)
{
    for (; lines > 0 && next->rows > 0; lines--) {
        __builtin_prefetch(next->row + next->at, 0, 2);
        next->at += 64;
        if (next->at >= next->bytes) {
            next->at = 0;
            next->row += next->stride;
            next->rows--;
        }
    }
}

/* Cache lines of states to prefetch at each of so many steps. */
static inline ptrdiff_t rk_state_lines(const rk_states_ahead *states, ptrdiff_t steps)
{
    return steps < 1 ? 0 : (states->left / 64 + steps - 1) / steps;
}

/* Prefetch the next `lines` cache lines of states. */
static inline void rk_prefetch_states(rk_states_ahead *states, ptrdiff_t lines)
{
    for (; lines > 0 && states->left > 0; lines--, states->left -= 64) {
        __builtin_prefetch(states->at, 0, 2);
        states->at += 64;
        if (states->left > 64 && states->at >= states->sequence->read + states->field + states->bytes) {
            states->sequence++;
            states->at = states->sequence->read + states->field;
        }
    }
}

#endif
