/* Vectors of 16 bytes: integer sums, activations, weights and floats. */
typedef int32_t rk_qi __attribute__((vector_size(16)));
typedef int8_t rk_qx __attribute__((vector_size(16)));
typedef uint8_t rk_qw __attribute__((vector_size(16)));
typedef rk_vf32 rk_qf;
