"""Models: state, layers, the encoder, the language model, and loading."""
