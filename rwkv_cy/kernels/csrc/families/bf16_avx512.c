/* Products with bf16 matrices by the dot product instructions of AVX-512 BF16. */
#include "rk.h"

#if defined(__x86_64__)
#define RK_NAME avx512
#include "isa/target_avx512bf16.h"
#include "isa/simd_avx512.h"

/* acc += the products of two columns in each lane; the second column is added first. */
typedef uint16_t rk_vbf16 __attribute__((vector_size(64)));
#define RK_DOT_BF16(w, x, acc) ((rk_vf32)_mm512_dpbf16_ps((__m512)(acc), (__m512bh)(w), (__m512bh)(x)))

#include "families/bf16_body.h"
#include "isa/target_end.h"
#endif
