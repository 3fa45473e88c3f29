"""The versions of RWKV, one file each, and the table of them."""
