/* A quick sample of the memory bandwidth. */
#ifndef RK_BANDWIDTH_H
#define RK_BANDWIDTH_H

#include "rk.h"

/* Bytes a second at which so many threads read memory of that size: the best of the passes within so many seconds, two at
 * least; 0 if there is too little memory. */
double rk_read_bandwidth(const rk_table *table, size_t bytes, int threads, double seconds);

#endif
