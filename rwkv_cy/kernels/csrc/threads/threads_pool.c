/* The thread pool: each worker has a share of the pieces of a job, which others can steal. Idle workers spin briefly,
 * then sleep.
 *
 * The caller never waits for a thread that has not started a piece: if other processes occupy the cores, the caller
 * does the work alone. The pool serves one call at a time; a call that finds it busy runs on its own thread, so that
 * several Python threads do not crowd the cores. A forked child has no workers, and starts new ones. */
#include "rk.h"

#include "threads/float_mode.h"

#if RK_THREADS == RK_THREADS_POOL

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

enum { MAX_WORKERS = 1023 };

/* Longer than the gap between two shared operations of a token, and short enough not to waste CPU time. */
#define SPIN_NANOSECONDS 50000

/* The remaining pieces of a thread, first..end, in one word with the job's number in the upper bits. A thread takes
 * from the front of its own share and, when that is empty, the second half of another's. So memory is read in long
 * runs, which suits the prefetcher, and a thread that does not run does not delay the others. Pieces are taken by
 * compare-and-swap, which fails if the share has changed. If it succeeds, the job is unfinished, and fields of the job
 * read since the share was read are consistent. */
#define PIECE_BITS 16
#define MOST_PIECES ((UINT64_C(1) << PIECE_BITS) - 1)

typedef struct {
    _Alignas(128) _Atomic(uint64_t) range; /* a pair of cache lines for each thread */
} share;

static share shares[MAX_WORKERS + 1];
static _Atomic(uint32_t) job; /* number of the current job */
static _Atomic(rk_body) job_body;
static _Atomic(void *) job_context;
static _Atomic(ptrdiff_t) job_n, job_grain;
static _Atomic(uint64_t) job_pieces;
static _Atomic(int) job_threads;
static _Atomic(uint64_t) finished; /* pieces of the job that are done */

static pthread_mutex_t owner = PTHREAD_MUTEX_INITIALIZER;  /* held by the call that uses the pool */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;   /* for sleeping and waking only */
static pthread_cond_t new_job = PTHREAD_COND_INITIALIZER;
static pthread_cond_t job_done = PTHREAD_COND_INITIALIZER;
static _Atomic(int) sleepers, owner_sleeps;
static _Atomic(uint32_t) calls; /* of rk_wake */
static int workers; /* started; guarded by owner */

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static uint64_t range_of(uint32_t number, uint64_t first, uint64_t end)
{
    return (uint64_t)number << 2 * PIECE_BITS | first << PIECE_BITS | end;
}

static uint32_t number_of(uint64_t range) { return (uint32_t)(range >> 2 * PIECE_BITS); }

static uint64_t first_of(uint64_t range) { return range >> PIECE_BITS & MOST_PIECES; }

static uint64_t end_of(uint64_t range) { return range & MOST_PIECES; }

static uint64_t left_in(uint64_t range) { return end_of(range) - first_of(range); }

/* Steal half of another thread's remaining pieces into the share of `thread`, which was read as `own`, empty. While
 * pieces of that job are left, no other thread writes to it. */
static int take_over(int thread, uint64_t own)
{
    for (;;) {
        const int threads = atomic_load(&job_threads);
        /* Job numbers wrap after 2^32: this one may be from an old job with more threads. */
        if (thread >= threads) return 0;
        uint64_t most = 0;
        int from = -1;
        for (int i = 0; i < threads; i++) {
            const uint64_t range = atomic_load(&shares[i].range);
            if (number_of(range) != number_of(own) || left_in(range) <= left_in(most)) continue;
            most = range;
            from = i;
        }
        if (from < 0) return 0;
        const uint64_t middle = end_of(most) - (left_in(most) + 1) / 2;
        const uint64_t rest = range_of(number_of(most), first_of(most), middle);
        if (!atomic_compare_exchange_strong(&shares[from].range, &most, rest)) continue;
        atomic_store(&shares[thread].range, range_of(number_of(most), middle, end_of(most)));
        return 1;
    }
}

/* Run pieces of the current job until none is left. */
static void work(int thread)
{
    for (;;) {
        uint64_t range = atomic_load(&shares[thread].range);
        const rk_body body = atomic_load(&job_body);
        void *context = atomic_load(&job_context);
        const ptrdiff_t n = atomic_load(&job_n), grain = atomic_load(&job_grain);
        const uint64_t pieces = atomic_load(&job_pieces), first = first_of(range);
        /* Half of what remains: long runs first, short ones at the end, when other threads wait for the last piece. */
        const uint64_t count = (left_in(range) + 1) / 2;
        if (count == 0) {
            if (take_over(thread, range)) continue;
            return;
        }
        if (!atomic_compare_exchange_strong(&shares[thread].range, &range, range + (count << PIECE_BITS))) continue;
        const ptrdiff_t begin = (ptrdiff_t)first * grain, end = begin + (ptrdiff_t)count * grain;
        body(context, begin, end < n ? end : n, thread);
        if (atomic_fetch_add(&finished, count) + count == pieces && atomic_load(&owner_sleeps)) {
            pthread_mutex_lock(&lock);
            pthread_cond_signal(&job_done);
            pthread_mutex_unlock(&lock);
        }
    }
}

static void *worker(void *argument)
{
    const int thread = (int)(intptr_t)argument;
    uint32_t last = 0;
    rk_enter_float_mode(); /* for the life of the thread, which began with the mode of its creator */
    for (;;) {
        int64_t start = nanoseconds();
        uint32_t heard = atomic_load(&calls);
        for (unsigned i = 1; atomic_load(&job) == last; i++) {
            relax();
            if (i % 64) continue;
            const int64_t now = nanoseconds();
            const uint32_t called = atomic_load(&calls);
            if (called != heard) start = now;
            heard = called;
            if (now - start < SPIN_NANOSECONDS) continue;
            pthread_mutex_lock(&lock);
            atomic_fetch_add(&sleepers, 1);
            while (atomic_load(&job) == last && atomic_load(&calls) == heard) pthread_cond_wait(&new_job, &lock);
            atomic_fetch_sub(&sleepers, 1);
            pthread_mutex_unlock(&lock);
        }
        last = atomic_load(&job);
        work(thread);
    }
    return NULL;
}

static void before_fork(void)
{
    /* The child inherits both locks, held by the forking thread. */
    pthread_mutex_lock(&owner);
    pthread_mutex_lock(&lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&owner);
}

static void after_fork_in_child(void)
{
    pthread_mutex_init(&lock, NULL);
    pthread_mutex_init(&owner, NULL);
    pthread_cond_init(&new_job, NULL);
    pthread_cond_init(&job_done, NULL);
    atomic_store(&sleepers, 0);
    atomic_store(&owner_sleeps, 0);
    workers = 0;
}

static void register_fork_handlers(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* Start workers until there are `count`, or as many as the system allows. The caller holds `owner`. */
static void start_workers(int count)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static const int own_faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
    sigset_t all, before;
    if (count > MAX_WORKERS) count = MAX_WORKERS;
    if (workers >= count) return;
    pthread_once(&once, register_fork_handlers);
    /* Workers block all signals except synchronous faults, such as SIGBUS from a truncated mapped file, which must
     * reach their handler. */
    sigfillset(&all);
    for (size_t i = 0; i < sizeof own_faults / sizeof *own_faults; i++) sigdelset(&all, own_faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (workers < count) {
        pthread_t id;
        if (pthread_create(&id, NULL, worker, (void *)(intptr_t)(workers + 1))) break;
        pthread_detach(id);
        workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void wait_for(uint64_t pieces)
{
    int64_t start = nanoseconds();
    for (unsigned i = 1; atomic_load(&finished) < pieces; i++) {
        relax();
        if (i % 64 || nanoseconds() - start < SPIN_NANOSECONDS) continue;
        pthread_mutex_lock(&lock);
        atomic_store(&owner_sleeps, 1);
        while (atomic_load(&finished) < pieces) pthread_cond_wait(&job_done, &lock);
        atomic_store(&owner_sleeps, 0);
        pthread_mutex_unlock(&lock);
    }
}

static void run(ptrdiff_t n, ptrdiff_t grain, int threads, rk_body body, void *context)
{
    ptrdiff_t pieces = (n + grain - 1) / grain;
    if (threads <= 1 || pieces <= 1 || pthread_mutex_trylock(&owner)) {
        body(context, 0, n, 0);
        return;
    }
    if (threads > MAX_WORKERS + 1) threads = MAX_WORKERS + 1;
    if (threads > pieces) threads = (int)pieces;
    if ((uint64_t)pieces > MOST_PIECES) {
        grain *= pieces / (ptrdiff_t)MOST_PIECES + 1;
        pieces = (n + grain - 1) / grain;
    }
    start_workers(threads - 1);
    atomic_store(&job_body, body);
    atomic_store(&job_context, context);
    atomic_store(&job_n, n);
    atomic_store(&job_grain, grain);
    atomic_store(&job_threads, threads);
    atomic_store(&job_pieces, (uint64_t)pieces);
    atomic_store(&finished, 0);
    const uint32_t number = atomic_load(&job) + 1;
    for (int i = 0; i < threads; i++)
        atomic_store(&shares[i].range, range_of(number, (uint64_t)(pieces * i / threads),
                                                (uint64_t)(pieces * (i + 1) / threads)));
    atomic_store(&job, number);
    if (atomic_load(&sleepers)) {
        pthread_mutex_lock(&lock);
        pthread_cond_broadcast(&new_job);
        pthread_mutex_unlock(&lock);
    }
    work(0);
    wait_for((uint64_t)pieces);
    pthread_mutex_unlock(&owner);
}

void rk_parallel(ptrdiff_t n, ptrdiff_t grain, int threads, rk_body body, void *context)
{
    if (n <= 0) return;
    const rk_float_mode before = rk_enter_float_mode();
    run(n, grain, threads, body, context);
    rk_leave_float_mode(before);
}

void rk_wake(int threads)
{
    if (threads <= 1) return;
    atomic_fetch_add(&calls, 1);
    if (!atomic_load(&sleepers)) return;
    pthread_mutex_lock(&lock);
    pthread_cond_broadcast(&new_job);
    pthread_mutex_unlock(&lock);
}

#else
typedef int rk_no_pool; /* ISO C forbids an empty translation unit */
#endif
