/* The other thread backends: OpenMP, and none. */
#include "rk.h"

#include "threads/float_mode.h"

#if RK_THREADS != RK_THREADS_POOL
void rk_wake(int threads) { (void)threads; }

/* Call body in the mode of kernels. */
static void run(rk_body body, void *context, ptrdiff_t begin, ptrdiff_t end, int thread)
{
    const rk_float_mode before = rk_enter_float_mode();
    body(context, begin, end, thread);
    rk_leave_float_mode(before);
}
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
        run(body, context, 0, n, 0);
        return;
    }
    pthread_once(&once, register_fork_handler);
#pragma omp parallel for num_threads(threads) schedule(guided)
    for (ptrdiff_t i = 0; i < pieces; i++) {
        ptrdiff_t begin = i * grain;
        /* The runtime's threads also serve others, who expect their own mode. */
        run(body, context, begin, begin + grain < n ? begin + grain : n, omp_get_thread_num());
    }
}

#elif RK_THREADS == RK_THREADS_NONE

void rk_parallel(ptrdiff_t n, ptrdiff_t grain, int threads, rk_body body, void *context)
{
    (void)grain;
    (void)threads;
    if (n > 0) run(body, context, 0, n, 0);
}

#else
typedef int rk_no_other_threads; /* ISO C forbids an empty translation unit */
#endif
