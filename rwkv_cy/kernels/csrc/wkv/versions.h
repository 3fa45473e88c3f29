/* The versions of WKV: their numbers, and their rows in a table of kernels. */
#ifndef RK_WKV_VERSIONS_H
#define RK_WKV_VERSIONS_H

/* Index of a version in rk_ops.wkv. */
enum { RK_WKV4, RK_WKV6, RK_WKV7, RK_WKV_VERSIONS };

/* Initialiser of rk_ops.wkv for the functions with this suffix. */
#define RK_WKV_OPS(suffix)                                                                                             \
    {                                                                                                                  \
        [RK_WKV4] = {.channels = wkv4_##suffix, .channels_gradient = wkv4_gradient_##suffix},                          \
        [RK_WKV6] = {.rows = wkv6_##suffix,                                                                            \
                     .finish = wkv6_finish_##suffix,                                                                   \
                     .heads_gradient = wkv6_gradient_##suffix,                                                         \
                     .vectors = RK_WKV6_VECTORS,                                                                       \
                     .gradient_vectors = RK_WKV6_GRADIENT_VECTORS,                                                     \
                     .sums = RK_WKV6_SUMS},                                                                            \
        [RK_WKV7] = {.rows = wkv7_##suffix,                                                                            \
                     .finish = wkv7_finish_##suffix,                                                                   \
                     .heads_gradient = wkv7_gradient_##suffix,                                                         \
                     .vectors = RK_WKV7_VECTORS,                                                                       \
                     .gradient_vectors = RK_WKV7_GRADIENT_VECTORS,                                                     \
                     .sums = RK_WKV7_SUMS},                                                                            \
    }

#endif
