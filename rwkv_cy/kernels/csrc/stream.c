/* Memory bandwidth: several threads read spans of memory, sharing pieces as they do for a product. */
#include "rk.h"

typedef struct {
    const rk_table *table;
    rk_piece *pieces;
} reading;

static void read_pieces(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    reading *r = context;
    (void)thread;
    for (ptrdiff_t i = begin; i < end; i++) r->pieces[i].sum = r->table->sum_words(r->pieces[i].data, r->pieces[i].bytes);
}

void rk_read(const rk_table *table, rk_piece *pieces, ptrdiff_t count, int threads)
{
    reading r = {table, pieces};
    rk_parallel(count, 1, threads, read_pieces, &r);
}
