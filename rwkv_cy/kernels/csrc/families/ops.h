/* Fields of rk_ops for the functions with this suffix; `type` is that of an element. */
#define RK_OPS(suffix, type)                                                                                           \
    .itemsize = sizeof(type), .sumsize = sizeof(type), .lanes = RK_VECTOR_BYTES / sizeof(type),                        \
    .panel_rows = RK_PANEL_ROWS, .panel_tokens = RK_PANEL_TOKENS, .few_tokens = RK_FEW_TOKENS, .rows = rows_##suffix,  \
    .pack_token = pack_token_##suffix, .panels = panels_##suffix, .columns = columns_##suffix,                         \
    .add_lanes = add_lanes_##suffix, .layer_norm = layer_norm_##suffix, .token_shift = token_shift_##suffix,           \
    .token_lerp = token_lerp_##suffix, .tanh = tanh_all_##suffix, .sigmoid = sigmoid_all_##suffix,                     \
    .wkv = RK_WKV_OPS(suffix), .relu_squared = relu_squared_##suffix,                                                  \
    .relu_squared_scaled = relu_squared_scaled_##suffix, .token_matrices = token_matrices_##suffix,                    \
    .add_gated = add_gated_##suffix, .add_scaled = add_scaled_##suffix, .add = add_##suffix,                           \
    .gradients = RK_GRADIENTS(suffix), .multiply = multiply_##suffix, .all_finite = all_finite_##suffix
