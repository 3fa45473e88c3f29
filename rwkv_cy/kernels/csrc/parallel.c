/* Work shared among threads: the one place that knows OpenMP. */
#include "rk.h"

#if defined(_OPENMP)
#include <omp.h>
#include <pthread.h>

/* The threads of an OpenMP runtime do not live on in a forked child, and GNU's waits for them forever:
 * a child computes on its one thread. */
static int forked;
static void after_fork(void) { forked = 1; }

static void register_handler(void) { pthread_atfork(NULL, NULL, after_fork); }

static void watch_forks(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_handler);
}

int rk_has_openmp(void) { return 1; }

void rk_parallel(ptrdiff_t n, ptrdiff_t grain, int threads, rk_body body, void *context)
{
    ptrdiff_t pieces = (n + grain - 1) / grain;
    if (threads > pieces) threads = (int)pieces;
    if (threads <= 1 || forked) {
        if (n > 0) body(context, 0, n, 0);
        return;
    }
    watch_forks();
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (ptrdiff_t i = 0; i < pieces; i++) {
        ptrdiff_t begin = i * grain;
        body(context, begin, begin + grain < n ? begin + grain : n, omp_get_thread_num());
    }
}

#else

int rk_has_openmp(void) { return 0; }

void rk_parallel(ptrdiff_t n, ptrdiff_t grain, int threads, rk_body body, void *context)
{
    (void)grain;
    (void)threads;
    if (n > 0) body(context, 0, n, 0);
}

#endif
