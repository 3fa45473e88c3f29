/* Concatenation of names from macros. */
#ifndef RK_NAMES_H
#define RK_NAMES_H

#define RK_CAT2(a, b) a##_##b
#define RK_CAT(a, b) RK_CAT2(a, b)

#endif
