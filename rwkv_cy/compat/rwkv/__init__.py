"""The API of the RWKV authors' package ``rwkv``, without torch: ``model``, ``utils`` and ``rwkv_tokenizer``."""
