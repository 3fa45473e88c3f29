"""Texts are encoded once, within a limit of bytes, apart by partition."""

from __future__ import annotations

from rwkv_cy.chat import FORMATS, Conversation, EncodedTexts, Message, build_prompt
from rwkv_cy.text import ByteTokenizer


class Counting(ByteTokenizer):
    """Counts the characters that it encodes."""

    characters = 0

    def encode(self, text: str) -> list[int]:
        self.characters += len(text)
        return super().encode(text)


def test_a_conversation_is_encoded_once() -> None:
    tokenizer = Counting()
    encoded = EncodedTexts(tokenizer)
    messages = [Message("system", "Be brief. " * 100)]
    for turn in range(20):
        messages.append(Message("user", f"Question {turn}"))
        tokenizer.characters = 0
        prompt = build_prompt(FORMATS["world"], Conversation(messages), encoded)
        assert prompt == build_prompt(FORMATS["world"], Conversation(messages), ByteTokenizer())
        assert tokenizer.characters < 60 or turn == 0
        messages.append(Message("assistant", f"Answer {turn}"))


def test_partitions_and_bytes() -> None:
    tokenizer = Counting()
    encoded = EncodedTexts(tokenizer, max_bytes=5000)
    for partition, expected in (("a", 100), ("a", 0), ("b", 100), ("a", 0)):
        tokenizer.characters = 0
        assert list(encoded.encode("x" * 100, partition)) == [120] * 100
        assert tokenizer.characters == expected
    for number in range(100):
        encoded.encode(f"{number}" + "y" * 100, "a")
        encoded.encode("x" * 100, "b")
        assert encoded.bytes <= 5000
    tokenizer.characters = 0
    encoded.encode("x" * 100, "b")
    assert tokenizer.characters == 0  # it was used all the time
    encoded.encode("x" * 100, "a")
    assert tokenizer.characters == 100
    encoded.encode("z" * 5000)
    assert encoded.bytes <= 5000
