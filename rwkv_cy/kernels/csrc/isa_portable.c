/* The kernels for portable. */
#include "rk.h"

#include "scalar.h"
#include "simd_portable.h"
#include "table.h"
