"""Run RWKV language models on the CPU."""
