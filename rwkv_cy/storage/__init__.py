"""The HDF5 model file: its schema, writer and reader."""
