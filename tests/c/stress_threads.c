/* Four callers share the pool for thousands of short jobs: every item must be done once. For ThreadSanitizer. */
#include "rk.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { ITEMS = 1000, JOBS = 20000, CALLERS = 3 };

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

int main(void)
{
    pthread_t callers[CALLERS];
    call(NULL);
    for (int i = 0; i < CALLERS; i++)
        if (pthread_create(&callers[i], NULL, call, NULL)) return 2;
    for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
    puts("every item once");
    return 0;
}
