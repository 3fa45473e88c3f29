/* The kernels for portable. */
#include "rk.h"

#include "scalar.h"
#include "bf12.h"
#include "columns.h"
#include "quant.h"
#include "simd_portable.h"
#include "quant_portable.h"
#include "bf12_portable.h"
#include "table.h"
