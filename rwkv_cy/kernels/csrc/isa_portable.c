/* The kernels for portable. */
#include "rk.h"

#include "scalar.h"
#include "columns.h"
#include "quant.h"
#include "simd_portable.h"
#include "quant_portable.h"
#include "table.h"
