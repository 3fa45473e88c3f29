/* The other thread backends: OpenMP, and none. */
#include "rk.h"

#if RK_THREADS != RK_THREADS_POOL
void rk_wake(int threads) { (void)threads; }
#endif

#if RK_THREADS == RK_THREADS_OPENMP

#include <omp.h>
#include <pthread.h>

/* Threads of an OpenMP runtime do not survive a fork, and GNU's runtime then waits for them forever. So a forked child
 * computes on one thread. */
static int forked;

static void after_fork(void) { forked = 1; }

static void register_fork_handler(void) { pthread_atfork(NULL, NULL, after_fork); }

void rk_parallel(ptrdiff_t n, ptrdiff_t grain, int threads, rk_body body, void *context)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    ptrdiff_t pieces = (n + grain - 1) / grain;
    if (n <= 0) return;
    if (threads > pieces) threads = (int)pieces;
    if (threads <= 1 || forked) {
        body(context, 0, n, 0);
        return;
    }
    pthread_once(&once, register_fork_handler);
#pragma omp parallel for num_threads(threads) schedule(guided)
    for (ptrdiff_t i = 0; i < pieces; i++) {
        ptrdiff_t begin = i * grain;
        body(context, begin, begin + grain < n ? begin + grain : n, omp_get_thread_num());
    }
}

#elif RK_THREADS == RK_THREADS_NONE

void rk_parallel(ptrdiff_t n, ptrdiff_t grain, int threads, rk_body body, void *context)
{
    (void)grain;
    (void)threads;
    if (n > 0) body(context, 0, n, 0);
}

#else
typedef int rk_no_other_threads; /* ISO C forbids an empty translation unit */
#endif
