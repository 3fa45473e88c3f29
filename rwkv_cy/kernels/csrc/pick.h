/* Shuffle of two vectors by index, for gcc and clang: `mask_type` is a vector of integers as wide as the items. */
#ifndef RK_PICK_H
#define RK_PICK_H

#if defined(__clang__)
#define RK_PICK(mask_type, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define RK_PICK(mask_type, a, b, ...) __builtin_shuffle(a, b, (mask_type){__VA_ARGS__})
#endif

#endif
