"""Files as bytes: bounded reading, identity, atomic replacement, digests, strict JSON."""
