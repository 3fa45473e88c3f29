/* Tiles: registers of up to sixteen rows of 64 bytes, of which a thread configures the shapes before it uses them. */
#ifndef RK_TILES_H
#define RK_TILES_H

#include <stdint.h>

#define RK_TILE_ROWS 16  /* of a whole tile */
#define RK_TILE_BYTES 64 /* of a row of a whole tile */
#define RK_WHOLE_TILE (RK_TILE_ROWS * RK_TILE_BYTES)

/* What LDTILECFG reads: all 64 bytes of it. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} rk_tile_shapes;

_Static_assert(sizeof(rk_tile_shapes) == 64, "the configuration of tiles has 64 bytes");

/* Sixteen 32-bit items, a row of a tile. */
typedef float rk_tf __attribute__((vector_size(64)));
typedef int32_t rk_ti __attribute__((vector_size(64)));
typedef uint32_t rk_tu __attribute__((vector_size(64)));
typedef uint8_t rk_tb __attribute__((vector_size(64)));
typedef uint16_t rk_th __attribute__((vector_size(32))); /* sixteen words */

#endif
