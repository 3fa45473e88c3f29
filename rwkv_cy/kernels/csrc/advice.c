/* Advice to the system about tables in mapped files, of which single rows are read in no order. */
#include "rk.h"

#include <sys/mman.h>
#include <unistd.h>

void rk_read_in_no_order(const void *data, size_t bytes)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    /* Only whole pages: what is before and after has other uses. */
    const uintptr_t begin = ((uintptr_t)data + page - 1) / page * page, end = ((uintptr_t)data + bytes) / page * page;
    if (begin < end) posix_madvise((void *)begin, end - begin, POSIX_MADV_RANDOM);
}

void rk_prefetch_rows(const void *data, size_t row_bytes, const long long *ids, ptrdiff_t count)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (ptrdiff_t i = 0; i < count; i++) {
        const uintptr_t row = (uintptr_t)data + (size_t)ids[i] * row_bytes, begin = row / page * page;
        posix_madvise((void *)begin, row + row_bytes - begin, POSIX_MADV_WILLNEED);
    }
}
