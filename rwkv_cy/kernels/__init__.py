"""Compiled kernels: the only modules that use pointers."""
