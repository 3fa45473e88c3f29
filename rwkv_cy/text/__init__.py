"""Text in and out: tokenizers, sampling, generation."""
