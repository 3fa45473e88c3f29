"""The building of a double array: for Cython only."""
