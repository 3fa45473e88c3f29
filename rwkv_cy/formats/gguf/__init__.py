"""GGUF, the files of llama.cpp: the container, its metadata and vocabulary, and models in it."""
