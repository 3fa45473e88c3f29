"""The command ``rwkv-cy``."""
