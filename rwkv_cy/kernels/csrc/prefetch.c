/* Rows of a table in a mapped file, requested from the system before they are read. */
#include "rk.h"

#include <sys/mman.h>
#include <unistd.h>

void rk_prefetch_rows(const void *data, size_t row_bytes, const long long *ids, ptrdiff_t count)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (ptrdiff_t i = 0; i < count; i++) {
        const uintptr_t row = (uintptr_t)data + (size_t)ids[i] * row_bytes, begin = row / page * page;
        posix_madvise((void *)begin, row + row_bytes - begin, POSIX_MADV_WILLNEED);
    }
}
