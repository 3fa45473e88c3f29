"""The server: OpenAI's and Anthropic's APIs over HTTP, and states by name. It needs the extra ``serve``."""

from __future__ import annotations
