/* The kernels for neon. */
#if defined(__aarch64__)
#include <arm_neon.h>
#include "rk.h"

#include "scalar.h"
#include "bf12.h"
#include "columns.h"
#include "quant.h"
#include "simd_neon.h"
#include "quant_portable.h"
#include "bf12_neon.h"
#include "table.h"
#else
typedef int rk_no_neon; /* another CPU family: an empty file is no C */
#endif
