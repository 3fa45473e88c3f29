/* Work shared among threads by a pool of our own: pieces that any free thread takes, a short spin, then sleep.
 *
 * Nobody ever waits for a thread that has no piece in hand: where another process has taken a core, the caller
 * does the work alone. One call has the pool at a time; a call that finds it taken runs on its own thread, so
 * that several Python threads do not crowd the cores. A forked child has no threads, and starts new ones. */
#include "rk.h"

#if RK_THREADS == RK_THREADS_POOL

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

enum { MAX_WORKERS = 1023 };

/* Longer than the stretches between two shared operations of one token, shorter than anyone notices. */
#define SPIN_NANOSECONDS 50000

/* The ticket is the job's number and, below it, the next piece. A piece is taken by compare-and-swap, which fails
 * if the job has changed: what was read of the job before it is then known to belong together. */
#define PIECE_BITS 32
#define PIECE_MASK ((UINT64_C(1) << PIECE_BITS) - 1)

static _Atomic(uint64_t) ticket = PIECE_MASK; /* no piece to be had */
static _Atomic(rk_body) job_body;
static _Atomic(void *) job_context;
static _Atomic(ptrdiff_t) job_n, job_grain;
static _Atomic(uint64_t) job_pieces;
static _Atomic(int) job_threads;
static _Atomic(uint64_t) finished; /* pieces of the job that are done */

static pthread_mutex_t owner = PTHREAD_MUTEX_INITIALIZER;  /* held by the call that has the pool */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;   /* for sleeping and waking only */
static pthread_cond_t new_job = PTHREAD_COND_INITIALIZER;
static pthread_cond_t job_done = PTHREAD_COND_INITIALIZER;
static _Atomic(int) sleepers, owner_sleeps;
static uint64_t calls; /* of rk_wake; guarded by lock */
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

/* Take pieces of the current job until none is left. */
static void work(int thread)
{
    for (;;) {
        uint64_t seen = atomic_load(&ticket);
        uint64_t piece = seen & PIECE_MASK;
        rk_body body = atomic_load(&job_body);
        void *context = atomic_load(&job_context);
        ptrdiff_t n = atomic_load(&job_n), grain = atomic_load(&job_grain);
        uint64_t pieces = atomic_load(&job_pieces);
        if (piece >= pieces || thread >= atomic_load(&job_threads)) return;
        if (!atomic_compare_exchange_weak(&ticket, &seen, seen + 1)) continue;
        ptrdiff_t begin = (ptrdiff_t)piece * grain;
        body(context, begin, begin + grain < n ? begin + grain : n, thread);
        if (atomic_fetch_add(&finished, 1) + 1 == pieces && atomic_load(&owner_sleeps)) {
            pthread_mutex_lock(&lock);
            pthread_cond_signal(&job_done);
            pthread_mutex_unlock(&lock);
        }
    }
}

static void *worker(void *argument)
{
    int thread = (int)(intptr_t)argument;
    uint64_t last = 0;
    for (;;) {
        int64_t start = nanoseconds();
        for (int i = 1; atomic_load(&ticket) >> PIECE_BITS == last; i++) {
            relax();
            if (i % 64 || nanoseconds() - start < SPIN_NANOSECONDS) continue;
            pthread_mutex_lock(&lock);
            atomic_fetch_add(&sleepers, 1);
            const uint64_t heard = calls;
            while (atomic_load(&ticket) >> PIECE_BITS == last && calls == heard) pthread_cond_wait(&new_job, &lock);
            atomic_fetch_sub(&sleepers, 1);
            pthread_mutex_unlock(&lock);
            start = nanoseconds();
        }
        last = atomic_load(&ticket) >> PIECE_BITS;
        work(thread);
    }
    return NULL;
}

static void before_fork(void)
{
    /* The child inherits the locks as they are: both free of others, in the hands of the one who forks. */
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

/* Have at least `wanted` workers, or as many as the system gives. The caller holds `owner`. */
static void start_workers(int wanted)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static const int own_faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
    sigset_t all, before;
    if (wanted > MAX_WORKERS) wanted = MAX_WORKERS;
    if (workers >= wanted) return;
    pthread_once(&once, register_fork_handlers);
    /* Signals are for the threads of the program, but for those that a thread brings on itself: a fault here (of a
     * mapped file cut short, say) is to reach whoever asked to hear of it. */
    sigfillset(&all);
    for (size_t i = 0; i < sizeof own_faults / sizeof *own_faults; i++) sigdelset(&all, own_faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (workers < wanted) {
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
    for (int i = 1; atomic_load(&finished) < pieces; i++) {
        relax();
        if (i % 64 || nanoseconds() - start < SPIN_NANOSECONDS) continue;
        pthread_mutex_lock(&lock);
        atomic_store(&owner_sleeps, 1);
        while (atomic_load(&finished) < pieces) pthread_cond_wait(&job_done, &lock);
        atomic_store(&owner_sleeps, 0);
        pthread_mutex_unlock(&lock);
    }
}

void rk_parallel(ptrdiff_t n, ptrdiff_t grain, int threads, rk_body body, void *context)
{
    ptrdiff_t pieces = (n + grain - 1) / grain;
    if (n <= 0) return;
    if (threads <= 1 || pieces <= 1 || (uint64_t)pieces >= PIECE_MASK / 2 || pthread_mutex_trylock(&owner)) {
        body(context, 0, n, 0);
        return;
    }
    start_workers((threads < pieces ? threads : (int)pieces) - 1);
    /* Close the old job before its fields change: a late thread's compare-and-swap must not succeed on them. */
    uint64_t number = atomic_load(&ticket) >> PIECE_BITS;
    atomic_store(&ticket, ((number + 1) << PIECE_BITS) | PIECE_MASK);
    atomic_store(&job_body, body);
    atomic_store(&job_context, context);
    atomic_store(&job_n, n);
    atomic_store(&job_grain, grain);
    atomic_store(&job_threads, threads);
    atomic_store(&job_pieces, (uint64_t)pieces);
    atomic_store(&finished, 0);
    atomic_store(&ticket, (number + 2) << PIECE_BITS);
    if (atomic_load(&sleepers)) {
        pthread_mutex_lock(&lock);
        pthread_cond_broadcast(&new_job);
        pthread_mutex_unlock(&lock);
    }
    work(0);
    wait_for((uint64_t)pieces);
    pthread_mutex_unlock(&owner);
}

void rk_wake(int threads)
{
    if (threads <= 1 || !atomic_load(&sleepers)) return;
    pthread_mutex_lock(&lock);
    calls++;
    pthread_cond_broadcast(&new_job);
    pthread_mutex_unlock(&lock);
}

#else
typedef int rk_no_pool; /* an empty file is no C */
#endif
