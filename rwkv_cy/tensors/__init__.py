"""Named tensors in memory and in files: storage types, reading, conversion, statistics."""
