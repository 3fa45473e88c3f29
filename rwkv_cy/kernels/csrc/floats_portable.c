/* Float kernels for any CPU. */
#define RK_NAME portable
#include "simd_portable.h"
#include "bf12_portable.h"
#include "floats_body.h"
