/* Tiles by AMX.
 *
 * By inline assembly, because the intrinsics do not say which memory they access: gcc declares too little for
 * _tile_loadconfig before 12.4 and 13.3 (GCC PR 114098) and drops stores to the rest, and none for loads of tiles. */
#include "codec/quant.h"
#include "isa/tiles.h"

static inline void rk_tiles_begin(const rk_tile_shapes *shapes)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(*shapes));
}

static inline void rk_tiles_end(void) { __asm__ volatile("tilerelease" : : : "memory"); }

/* t is the number of a tile; `stride` is the number of bytes from one row to the next. */
#define RK_TILE_ZERO(t) __asm__ volatile("tilezero %%tmm" #t : : : "memory")
#define RK_TILE_LOAD(t, p, stride)                                                                                     \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t : : "r"(p), "r"((ptrdiff_t)(stride)) : "memory")
#define RK_TILE_STORE(t, p, stride)                                                                                    \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" : : "r"(p), "r"((ptrdiff_t)(stride)) : "memory")

/* c += a b, where a row of b has, for each of its sixteen columns, the items of four (bytes) or two (bf16) rows of the
 * factor: signed bytes, signed by unsigned bytes, and bf16. */
#define RK_TILE_DOT_SS(c, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")
#define RK_TILE_DOT_SU(c, a, b) __asm__ volatile("tdpbsud %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")
#define RK_TILE_DOT_BF16(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")

#define RK_TF_FMA(a, b, c) ((rk_tf)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define RK_TB_LEVEL(v) ((rk_tb)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_setr_epi8(RK_LEVELS)), (__m512i)(v)))
#define RK_TF_F16(p) ((rk_tf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p))))
