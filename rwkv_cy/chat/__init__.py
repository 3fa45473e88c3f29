"""Chat: prompt formats, templates, messages as tokens, and answers split into reasoning, content and calls."""

from __future__ import annotations

from rwkv_cy.chat.answers import Answer, AnswerParser, CallDelta, CallStart, Event, TextDelta
from rwkv_cy.chat.call_grammar import CallConstraint, CallGrammar, needs_grammar
from rwkv_cy.chat.choice import AnyFormat, build_prompt, choose_format
from rwkv_cy.chat.encoded_texts import EncodedTexts
from rwkv_cy.chat.formats import FORMATS, THINKING_MODES, ChatFormat
from rwkv_cy.chat.messages import Conversation, Message, Tool, ToolCall
from rwkv_cy.chat.prompts import Prompt
from rwkv_cy.chat.saved import load_chat, save_chat
from rwkv_cy.chat.session import ChatSession, Reply
from rwkv_cy.chat.templates import TemplateFormat

__all__ = [
    "FORMATS",
    "THINKING_MODES",
    "Answer",
    "AnswerParser",
    "AnyFormat",
    "CallConstraint",
    "CallDelta",
    "CallGrammar",
    "CallStart",
    "ChatFormat",
    "ChatSession",
    "Conversation",
    "EncodedTexts",
    "Event",
    "Message",
    "Prompt",
    "Reply",
    "TemplateFormat",
    "TextDelta",
    "Tool",
    "ToolCall",
    "build_prompt",
    "choose_format",
    "load_chat",
    "needs_grammar",
    "save_chat",
]
