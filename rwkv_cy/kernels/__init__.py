"""Layer kernels: the rooms that know pointers."""
