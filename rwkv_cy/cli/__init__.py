"""The command ``rwkv-cy``.

Its modules import what a command needs inside the functions that run it, so that parsing, help and usage errors need
neither NumPy nor HDF5 nor the kernels.
"""
