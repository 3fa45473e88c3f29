/* The int8 family of tiles, on tiles in plain C. */
#include "rk.h"

#define RK_NAME model
#include "model/tiles.h"
#include "families/int8_tiles_body.h"
