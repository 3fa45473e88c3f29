/* Many short jobs, one close behind the other, and then from four callers that share the pool: every item must be done
 * once, by a thread of the job, while the job lives. For ThreadSanitizer, and by itself. The argument: how many jobs of
 * the first kind. */
#include "rk.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* Sometimes there are more items than a share has capacity for pieces. */
enum { MOST_ITEMS = 100000, MOST_THREADS = 8, CALLERS = 3, CALLERS_JOBS = 20000, SECONDS = 20, STUCK_SECONDS = 240 };

/* One job: `items` is NULL once it is over. */
typedef struct {
    ptrdiff_t n, grain;
    int threads;
    _Atomic(unsigned char *) items;
    _Atomic(int) busy[MOST_THREADS];
} work;

static void expect(int holds, const char *what, ptrdiff_t found)
{
    if (holds) return;
    printf("expected %s, got %td\n", what, found);
    exit(1);
}

static void count(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    work *w = context;
    unsigned char *items = atomic_load(&w->items);
    expect(items != NULL, "a job that is not over", -1);
    expect(thread >= 0 && thread < w->threads, "a thread of the job", thread);
    expect(begin < end && end <= w->n && begin % w->grain == 0, "whole pieces of the job", begin);
    expect(atomic_fetch_add(&w->busy[thread], 1) == 0, "one call at a time with a thread's number", thread);
    for (ptrdiff_t i = begin; i < end; i++) items[i]++;
    atomic_fetch_sub(&w->busy[thread], 1);
}

static void run(work *w, unsigned char *items, ptrdiff_t n, ptrdiff_t grain, int threads)
{
    w->n = n;
    w->grain = grain;
    w->threads = threads;
    for (ptrdiff_t i = 0; i < n; i++) items[i] = 0;
    atomic_store(&w->items, items);
    rk_parallel(n, grain, threads, count, w);
    atomic_store(&w->items, NULL);
    for (ptrdiff_t i = 0; i < n; i++) expect(items[i] == 1, "every item done once", items[i]);
}

/* A thread that is late for one job meets the next, which has other pieces for other threads, and a context of its own.
 * Who waits for a piece that was lost waits forever: the alarm ends that. Where other programs have the cores, there are
 * fewer jobs. */
static void close_jobs(long jobs)
{
    static unsigned char items[2][MOST_ITEMS];
    static work works[2];
    const time_t end = time(NULL) + SECONDS;
    uint64_t random = 1;
    for (long job = 0; job < jobs && time(NULL) < end; job++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        const unsigned bits = (unsigned)(random >> 32);
        const int large = bits % 8192 == 0;
        if (bits >> 13 & 1 && bits >> 14 & 1) rk_wake((int)(bits >> 15 & 3));
        run(&works[job % 2], items[job % 2], large ? MOST_ITEMS - bits % 1000 : 1 + (bits >> 17) % 40,
            large ? 1 : 1 + (bits >> 23) % 3, 2 + (bits >> 25) % (bits >> 30 ? 3 : MOST_THREADS - 1));
    }
}

static void *call(void *argument)
{
    unsigned char items[1000];
    work w = {0};
    for (int job = 0; job < CALLERS_JOBS; job++) run(&w, items, sizeof items, 1 + job % 97, 2 + job % 7);
    return argument;
}

int main(int count_of_arguments, char **arguments)
{
    pthread_t callers[CALLERS];
    alarm(STUCK_SECONDS);
    close_jobs(count_of_arguments > 1 ? atol(arguments[1]) : 2000000);
    call(NULL);
    for (int i = 0; i < CALLERS; i++)
        if (pthread_create(&callers[i], NULL, call, NULL)) return 2;
    for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
    puts("every item once");
    return 0;
}
