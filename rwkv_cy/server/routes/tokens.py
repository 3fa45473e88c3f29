"""``/tokenize``, ``/detokenize``, ``/apply-template`` and ``/tokenizer_info``."""

from __future__ import annotations

from rwkv_cy.server.errors import invalid
from rwkv_cy.server.http import Context, Reply
from rwkv_cy.server.service import Service
from rwkv_cy.server.wire.chat import ChatRequest, conversation_of
from rwkv_cy.server.wire.tokens import DetokenizeRequest, TokenizeRequest

__all__ = ["apply_template", "detokenize", "info", "tokenize"]


async def tokenize(service: Service, context: Context, body: TokenizeRequest) -> Reply:
    """Return the tokens of a text."""
    service.check_model(body.model)
    text = body.prompt if body.prompt is not None else body.content
    if text is None:
        raise invalid("prompt", "expected a text, got none", "missing_required_parameter")
    tokens = await service.encode("prompt", text) if text else []
    if body.with_pieces:
        pieces = [service.tokenizer.decode([token]) for token in tokens]
        return {"tokens": [{"id": token, "piece": piece} for token, piece in zip(tokens, pieces, strict=True)]}
    return {"tokens": tokens, "count": len(tokens), "max_model_len": service.settings.limits.prompt_tokens}


async def detokenize(service: Service, context: Context, body: DetokenizeRequest) -> Reply:
    """Return the text of tokens."""
    service.check_model(body.model)
    tokens = service.check_tokens("tokens", body.tokens) if body.tokens else []
    text = service.tokenizer.decode(tokens)
    return {"prompt": text, "content": text}


async def apply_template(service: Service, context: Context, body: ChatRequest) -> Reply:
    """Return the text that the model reads of a chat's request, and the strings that end its answer."""
    service.check_model(body.model)
    conversation = conversation_of(body, service.settings.thinking)
    prompt = await service.prompt(conversation, service.partition(context, body.prompt_cache_key))
    return {"prompt": service.tokenizer.decode(prompt.tokens), "tokens": prompt.tokens, "stop": list(prompt.stops)}


async def info(service: Service, context: Context, body: None) -> Reply:
    """Describe the tokenizer."""
    tokenizer = service.tokenizer
    end = tokenizer.end_of_text
    text = None if end is None else tokenizer.decode([end]) or "<|endoftext|>"
    return {
        "tokenizer_class": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "eos_token_id": end,
        "eos_token": text,
        "bos_token": None,
        "chat_template": service.chat.name,
    }
