/* Faults on demand: counts the system calls that touch files below a folder, and makes the chosen ones fail.
 *
 * Loaded with LD_PRELOAD. Nothing happens before faults_arm(), which a forked child calls just before its work; so each
 * moment is a number, and the same number is the same moment in every run.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, RESERVE = 2, WRITE = 4, SYNC = 8, RENAME = 16, REMOVE = 32, READ = 64 };
enum { NOTHING, KILL_BEFORE, KILL_HALF, KILL_AFTER, FAIL, FAIL_FROM, SHORTEN };
enum { CAPACITY = 1 << 16 };

/* Shared with the process that forked: how many calls were counted, and the kind of each. */
struct record {
    atomic_long count;
    unsigned char kinds[CAPACITY];
};

static char root[PATH_MAX];
static size_t root_length;
static unsigned kinds;
static long chosen;
static int action, number;
static struct record *record;

void faults_arm(const char *folder, unsigned mask, long at, int what, int error, struct record *shared)
{
    root_length = strlen(folder);
    memcpy(root, folder, root_length + 1);
    kinds = mask;
    chosen = at;
    action = what;
    number = error;
    record = shared;
}

static int below(const char *path)
{
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

static int descriptor_below(int descriptor)
{
    char link[64], path[PATH_MAX];
    if (record == NULL)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return below(path);
}

static int path_below(int folder, const char *path)
{
    if (record == NULL)
        return 0;
    return path[0] == '/' ? below(path) : folder != AT_FDCWD && descriptor_below(folder);
}

/* Count a call, and return what shall happen to it. */
static int strike(unsigned kind, int ours)
{
    if (record == NULL || !ours || !(kind & kinds))
        return NOTHING;
    long n = atomic_fetch_add(&record->count, 1);
    if (n < CAPACITY)
        record->kinds[n] = (unsigned char)kind;
    if (action == SHORTEN)
        return action;
    return n == chosen || (action == FAIL_FROM && n > chosen) ? action : NOTHING;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static void *next(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

/* A call that either happens or not. */
#define WHOLE(kind, ours, failed, call)                \
    do {                                               \
        int todo = strike(kind, ours);                 \
        if (todo == KILL_BEFORE || todo == KILL_HALF)  \
            die();                                     \
        if (todo == FAIL || todo == FAIL_FROM) {       \
            errno = number;                            \
            return failed;                             \
        }                                              \
        __typeof__(call) result = call;                \
        if (todo == KILL_AFTER)                        \
            die();                                     \
        return result;                                 \
    } while (0)

/* A call that may do less than it was asked to: half of `size` bytes. */
#define PARTIAL(kind, ours, size, call)                \
    do {                                               \
        int todo = strike(kind, ours);                 \
        if (todo == KILL_BEFORE)                       \
            die();                                     \
        if (todo == FAIL || todo == FAIL_FROM) {       \
            errno = number;                            \
            return -1;                                 \
        }                                              \
        if (todo == KILL_HALF || todo == SHORTEN)      \
            size = (size + 1) / 2;                     \
        ssize_t result = call;                         \
        if (todo == KILL_AFTER || todo == KILL_HALF)   \
            die();                                     \
        return result;                                 \
    } while (0)

#define OPEN(name, sized)                                                                    \
    int name(const char *path, int flags, ...)                                               \
    {                                                                                        \
        va_list rest;                                                                        \
        va_start(rest, flags);                                                               \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;              \
        va_end(rest);                                                                        \
        int (*real)(const char *, int, ...) = next(#sized);                                  \
        if (!(flags & O_CREAT))                                                              \
            return real(path, flags, mode);                                                  \
        WHOLE(CREATE, path_below(AT_FDCWD, path), -1, real(path, flags, mode));              \
    }
OPEN(open, open)
OPEN(open64, open64)

#define OPENAT(name)                                                                         \
    int name(int folder, const char *path, int flags, ...)                                   \
    {                                                                                        \
        va_list rest;                                                                        \
        va_start(rest, flags);                                                               \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;              \
        va_end(rest);                                                                        \
        int (*real)(int, const char *, int, ...) = next(#name);                              \
        if (!(flags & O_CREAT))                                                              \
            return real(folder, path, flags, mode);                                          \
        WHOLE(CREATE, path_below(folder, path), -1, real(folder, path, flags, mode));        \
    }
OPENAT(openat)
OPENAT(openat64)

int mkdir(const char *path, mode_t mode)
{
    int (*real)(const char *, mode_t) = next("mkdir");
    WHOLE(CREATE, path_below(AT_FDCWD, path), -1, real(path, mode));
}

#define FALLOCATE(name)                                                              \
    int name(int file, off_t start, off_t size)                                      \
    {                                                                                \
        int (*real)(int, off_t, off_t) = next(#name);                                \
        WHOLE(RESERVE, descriptor_below(file), number, real(file, start, size));     \
    }
FALLOCATE(posix_fallocate)
FALLOCATE(posix_fallocate64)

#define TRUNCATE(name)                                                       \
    int name(int file, off_t size)                                           \
    {                                                                        \
        int (*real)(int, off_t) = next(#name);                               \
        WHOLE(RESERVE, descriptor_below(file), -1, real(file, size));        \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

ssize_t write(int file, const void *data, size_t size)
{
    ssize_t (*real)(int, const void *, size_t) = next("write");
    PARTIAL(WRITE, descriptor_below(file), size, real(file, data, size));
}

#define PWRITE(name)                                                                     \
    ssize_t name(int file, const void *data, size_t size, off_t offset)                  \
    {                                                                                    \
        ssize_t (*real)(int, const void *, size_t, off_t) = next(#name);                 \
        PARTIAL(WRITE, descriptor_below(file), size, real(file, data, size, offset));    \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t read(int file, void *data, size_t size)
{
    ssize_t (*real)(int, void *, size_t) = next("read");
    PARTIAL(READ, descriptor_below(file), size, real(file, data, size));
}

#define PREAD(name)                                                                      \
    ssize_t name(int file, void *data, size_t size, off_t offset)                        \
    {                                                                                    \
        ssize_t (*real)(int, void *, size_t, off_t) = next(#name);                       \
        PARTIAL(READ, descriptor_below(file), size, real(file, data, size, offset));     \
    }
PREAD(pread)
PREAD(pread64)

/* Python reads one buffer at a time. */
#define PREADV(name)                                                                             \
    ssize_t name(int file, const struct iovec *vector, int parts, off_t offset)                  \
    {                                                                                            \
        ssize_t (*real)(int, const struct iovec *, int, off_t) = next(#name);                    \
        struct iovec one = vector[0];                                                            \
        if (parts != 1)                                                                          \
            return real(file, vector, parts, offset);                                            \
        PARTIAL(READ, descriptor_below(file), one.iov_len, real(file, &one, 1, offset));         \
    }
PREADV(preadv)
PREADV(preadv64)

#define PREADV2(name)                                                                            \
    ssize_t name(int file, const struct iovec *vector, int parts, off_t offset, int flags)       \
    {                                                                                            \
        ssize_t (*real)(int, const struct iovec *, int, off_t, int) = next(#name);               \
        struct iovec one = vector[0];                                                            \
        if (parts != 1)                                                                          \
            return real(file, vector, parts, offset, flags);                                     \
        PARTIAL(READ, descriptor_below(file), one.iov_len, real(file, &one, 1, offset, flags));  \
    }
PREADV2(preadv2)
PREADV2(preadv64v2)

int fsync(int file)
{
    int (*real)(int) = next("fsync");
    WHOLE(SYNC, descriptor_below(file), -1, real(file));
}

int rename(const char *from, const char *to)
{
    int (*real)(const char *, const char *) = next("rename");
    WHOLE(RENAME, path_below(AT_FDCWD, to), -1, real(from, to));
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    int (*real)(int, const char *, int, const char *) = next("renameat");
    WHOLE(RENAME, path_below(to_folder, to), -1, real(from_folder, from, to_folder, to));
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    int (*real)(int, const char *, int, const char *, unsigned) = next("renameat2");
    WHOLE(RENAME, path_below(to_folder, to), -1, real(from_folder, from, to_folder, to, flags));
}

int link(const char *from, const char *to)
{
    int (*real)(const char *, const char *) = next("link");
    WHOLE(RENAME, path_below(AT_FDCWD, to), -1, real(from, to));
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
    int (*real)(int, const char *, int, const char *, int) = next("linkat");
    WHOLE(RENAME, path_below(to_folder, to), -1, real(from_folder, from, to_folder, to, flags));
}

int unlink(const char *path)
{
    int (*real)(const char *) = next("unlink");
    WHOLE(REMOVE, path_below(AT_FDCWD, path), -1, real(path));
}

int unlinkat(int folder, const char *path, int flags)
{
    int (*real)(int, const char *, int) = next("unlinkat");
    WHOLE(REMOVE, path_below(folder, path), -1, real(folder, path, flags));
}

int rmdir(const char *path)
{
    int (*real)(const char *) = next("rmdir");
    WHOLE(REMOVE, path_below(AT_FDCWD, path), -1, real(path));
}
