"""Named tensors, wherever they are stored: storage types, reading, conversion, statistics."""
