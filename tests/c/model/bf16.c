/* The bf16 family of tiles, on tiles in plain C. */
#include "rk.h"

#define RK_NAME model
#include "model/tiles.h"
#include "families/bf16_tiles_body.h"
