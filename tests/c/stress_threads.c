/* Many short jobs, one close behind the other, and then from four callers that share the pool: every item must be done
 * once. For ThreadSanitizer, and by itself. The argument: how many jobs of the first kind. */
#include "rk.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { ITEMS = 1000, JOBS = 20000, CALLERS = 3, SECONDS = 20 };

static void count(void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    long *done = context;
    (void)thread;
    for (ptrdiff_t i = begin; i < end; i++) done[i]++;
}

static void *call(void *argument)
{
    long *done = calloc(ITEMS, sizeof *done);
    if (!done) exit(2);
    for (int job = 0; job < JOBS; job++) {
        rk_parallel(ITEMS, 1 + job % 97, 2 + job % 7, count, done);
        for (int i = 0; i < ITEMS; i++) {
            if (done[i] == job + 1) continue;
            printf("job %d: expected item %d done %d times, got %ld\n", job, i, job + 1, done[i]);
            exit(1);
        }
    }
    free(done);
    return argument;
}

/* A thread that is late for one job meets the next, which has other pieces for other threads. Who waits for a piece that
 * was lost waits forever: the alarm ends that. Where other programs have the cores, there are fewer jobs. */
static void close_jobs(long jobs)
{
    static long done[ITEMS];
    long expected[ITEMS] = {0};
    uint32_t random = 1;
    const time_t end = time(NULL) + SECONDS;
    for (long job = 0; job < jobs && time(NULL) < end; job++) {
        random = random * 1664525u + 1013904223u;
        const ptrdiff_t n = 1 + (random >> 8) % 40, grain = 1 + (random >> 16) % 3;
        const int threads = 2 + (random >> 20) % 3;
        if (random >> 28 == 0) rk_wake(threads);
        rk_parallel(n, grain, threads, count, done);
        for (ptrdiff_t i = 0; i < n; i++) expected[i]++;
    }
    for (int i = 0; i < ITEMS; i++) {
        if (done[i] == expected[i]) continue;
        printf("expected item %d done %ld times, got %ld\n", i, expected[i], done[i]);
        exit(1);
    }
}

int main(int count_of_arguments, char **arguments)
{
    pthread_t callers[CALLERS];
    alarm(600);
    close_jobs(count_of_arguments > 1 ? atol(arguments[1]) : 2000000);
    call(NULL);
    for (int i = 0; i < CALLERS; i++)
        if (pthread_create(&callers[i], NULL, call, NULL)) return 2;
    for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
    puts("every item once");
    return 0;
}
