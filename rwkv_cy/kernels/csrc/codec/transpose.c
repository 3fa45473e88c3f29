/* Transposition of a matrix in memory, for each item size. Uses 16-byte vectors, which every 64-bit CPU has. */
#include "pick.h"
#include "rk.h"

#define RK_CAT_T2(a, b) a##_##b
#define RK_CAT_T(a, b) RK_CAT_T2(a, b)

#define ITEM uint16_t
#define ITEMS 8
#define SUFFIX 16
#define ZIP_LOW(a, b) RK_PICK(vector_16, a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define ZIP_HIGH(a, b) RK_PICK(vector_16, a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#include "codec/transpose_body.h"

#define ITEM uint32_t
#define ITEMS 4
#define SUFFIX 32
#define ZIP_LOW(a, b) RK_PICK(vector_32, a, b, 0, 4, 1, 5)
#define ZIP_HIGH(a, b) RK_PICK(vector_32, a, b, 2, 6, 3, 7)
#include "codec/transpose_body.h"

#define ITEM uint64_t
#define ITEMS 2
#define SUFFIX 64
#define ZIP_LOW(a, b) RK_PICK(vector_64, a, b, 0, 2)
#define ZIP_HIGH(a, b) RK_PICK(vector_64, a, b, 1, 3)
#include "codec/transpose_body.h"

void rk_transpose(const void *in, size_t itemsize, size_t rows, size_t cols, size_t in_stride, void *out,
                  size_t out_stride)
{
    switch (itemsize) {
    case 2: transpose_16(in, rows, cols, in_stride, out, out_stride); return;
    case 4: transpose_32(in, rows, cols, in_stride, out, out_stride); return;
    default: transpose_64(in, rows, cols, in_stride, out, out_stride); return;
    }
}
