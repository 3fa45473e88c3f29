"""The command ``rwkv-cy``.

Its modules import what a command works with where it runs, so that the command line is read, help is shown and a
mistake is told without NumPy, HDF5 and the kernels.
"""
