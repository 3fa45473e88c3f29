"""Models on the Hugging Face hub: found by name, downloaded with their hashes checked, kept in the hub's cache."""

from __future__ import annotations

from rwkv_cy.hub.fetch import Fetched, fetch_into, fetch_to_cache, find_in_cache, local_path, local_tokenizer
from rwkv_cy.hub.library import endpoint, list_files
from rwkv_cy.hub.listing import Listing, RemoteFile, RemoteModel, choose, choose_all, models_of

__all__ = [
    "Fetched",
    "Listing",
    "RemoteFile",
    "RemoteModel",
    "choose",
    "choose_all",
    "endpoint",
    "fetch_into",
    "fetch_to_cache",
    "find_in_cache",
    "list_files",
    "local_path",
    "local_tokenizer",
    "models_of",
]
