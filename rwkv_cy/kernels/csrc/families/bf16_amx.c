/* Products with bf16 matrices by the tiles of AMX. */
#include "rk.h"
#include "isa/compiler.h"

#if defined(__x86_64__) && RK_KNOWS_AMX
#define RK_NAME amx
#include "isa/target_amx.h"
#include "isa/tiles_amx.h"
#include "families/bf16_tiles_body.h"
#include "isa/target_end.h"
#endif
