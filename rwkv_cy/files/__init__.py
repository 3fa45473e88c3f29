"""Files as bytes: reading within bounds, identity, atomic replacement, digests, strict JSON."""
