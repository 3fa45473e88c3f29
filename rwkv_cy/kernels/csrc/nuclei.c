/* The nuclei of rows of values: a row is searched by one thread. */
#include "nuclei.h"

/* Most probes of all weights; of most distributions, the first or second leaves few candidates. */
enum { PROBES = 3 };
/* By less than this, rounding may make the weight of a larger value the lower one. */
enum { ULPS = 64 };

/* Integers in the order of floats; 0 and -0 are the same. */
static inline int32_t order_of(float x)
{
    int32_t bits;
    x += 0.0f;
    memcpy(&bits, &x, sizeof bits);
    return bits ^ (bits >> 31 & INT32_MAX);
}

/* The reverse, for orders that are not negative. */
static inline float value_of(int32_t order)
{
    float x;
    memcpy(&x, &order, sizeof x);
    return x;
}

/* Candidates of which it is not known yet whether they are kept. */
typedef struct {
    int32_t *orders;
    float *weights;
    ptrdiff_t count;
} candidates;

/* The candidates from an order on. */
typedef struct {
    int64_t order;
    ptrdiff_t count;
    double weight;
} bound;

/* Keep the candidates from `low` to below `high`, and move the bounds to the first and past the last of them. */
static void keep_between(candidates *all, bound *low, bound *high)
{
    const int32_t first = (int32_t)low->order, last = (int32_t)(high->order - 1);
    int32_t smallest = INT32_MAX, largest = INT32_MIN;
    ptrdiff_t count = 0;
    for (ptrdiff_t i = 0; i < all->count; i++) {
        const int32_t order = all->orders[i];
        all->orders[count] = order;
        all->weights[count] = all->weights[i];
        count += order >= first && order <= last;
    }
    for (ptrdiff_t i = 0; i < count; i++) {
        smallest = all->orders[i] < smallest ? all->orders[i] : smallest;
        largest = all->orders[i] > largest ? all->orders[i] : largest;
    }
    all->count = count;
    *low = (bound){smallest, count, 0};
    *high = (bound){(int64_t)largest + 1, 0, 0};
}

/* Return the largest order from which on the candidates weigh `target`; `equals` becomes how many of just that order this
 * takes. Orders are bisected. */
static int32_t boundary(const rk_table *table, candidates *all, double target, ptrdiff_t *equals)
{
    bound low = {.order = INT32_MIN}, high = {.order = (int64_t)INT32_MAX + 1};
    double above = 0; /* the weight of those that are no longer here because they are kept */
    keep_between(all, &low, &high);
    /* From `low` on, the candidates weigh enough; from `high` on, too little. */
    while (high.order - low.order > 1) {
        bound middle = {.order = low.order + (high.order - low.order) / 2};
        middle.weight =
            table->weight_from(all->orders, all->weights, all->count, (int32_t)middle.order, &middle.count);
        if (above + middle.weight < target)
            high = middle;
        else
            low = middle;
        if (2 * (low.count - high.count) <= all->count) {
            above += high.weight;
            keep_between(all, &low, &high);
        }
    }
    above += high.weight;
    *equals = 0;
    for (ptrdiff_t i = 0; i < all->count; i++)
        if (all->orders[i] == low.order && (above < target || *equals == 0)) {
            above += all->weights[i];
            ++*equals;
        }
    return (int32_t)low.order;
}

/* A weight such that those that are no lower sum to `target` or more. */
static float least_weight(const rk_table *table, const float *weights, ptrdiff_t n, double total, double target)
{
    /* What is below the first sums to less than total - target. Weights are not negative: their bits have their order. */
    int32_t low = order_of((float)(0.99 * (total - target) / (double)n)), high = order_of(1) + 1;
    for (int probe = 0; probe < PROBES; probe++) {
        const int32_t middle = low + (high - low) / 2;
        ptrdiff_t count;
        if (table->weight_from((const int32_t *)weights, weights, n, middle, &count) >= target) {
            low = middle - ULPS > low ? middle - ULPS : low;
            break;
        }
        high = middle;
    }
    return value_of(low);
}

static void find_nucleus(const rk_table *table, rk_nucleus *row, float *scratch)
{
    const ptrdiff_t n = row->n;
    int32_t *places = row->places;
    float *weights = scratch;
    candidates all = {(int32_t *)scratch + n, scratch + 2 * n, 0};
    row->count = 0;
    table->copy_largest(row->values, n, NULL, &row->largest);
    if (!isfinite(row->largest)) return;
    if (row->top_p == 0) { /* the weights do not matter */
        row->count = table->at_least(row->values, n, row->largest, places);
        if (!row->keep_equals) row->count = 1;
        return;
    }
    const double total = table->weigh(row->values, n, row->largest, row->scale, weights), target = row->top_p * total;
    const ptrdiff_t count = table->at_least(weights, n, least_weight(table, weights, n, total, target), places);
    for (ptrdiff_t i = 0; i < count; i++) {
        all.orders[i] = order_of(row->values[places[i]]);
        all.weights[i] = weights[places[i]];
    }
    all.count = count;
    ptrdiff_t equals, kept = 0;
    const int32_t least = boundary(table, &all, target, &equals);
    if (row->keep_equals) equals = n;
    for (ptrdiff_t i = 0; i < count; i++) {
        const int32_t place = places[i], order = order_of(row->values[place]);
        places[kept] = place;
        kept += order > least || (order == least && equals > 0);
        equals -= order == least;
    }
    row->count = kept;
}

typedef struct {
    const rk_table *table;
    rk_nucleus *rows;
    float *scratch;
    size_t apart; /* floats between the scratch of one thread and that of the next */
} search;

static void find_rows(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const search *s = context;
    for (ptrdiff_t i = begin; i < end; i++) find_nucleus(s->table, &s->rows[i], s->scratch + (size_t)thread * s->apart);
}

size_t rk_nuclei_scratch(ptrdiff_t n, int threads) { return 3 * (size_t)n * (size_t)threads; }

void rk_find_nuclei(const rk_table *table, rk_nucleus *rows, ptrdiff_t count, float *scratch, int threads)
{
    ptrdiff_t longest = 0;
    for (ptrdiff_t i = 0; i < count; i++) longest = rows[i].n > longest ? rows[i].n : longest;
    search s = {table, rows, scratch, rk_nuclei_scratch(longest, 1)};
    rk_parallel(count, 1, threads, find_rows, &s);
}
