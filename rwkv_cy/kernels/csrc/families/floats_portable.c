/* Float kernels for any CPU. */
#define RK_NAME portable
#include "isa/simd_portable.h"
#include "isa/bf12_portable.h"
#include "families/floats_body.h"
