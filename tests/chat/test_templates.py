"""Templates of other models: the same text as jinja2 gives, limits, and message ends."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from rwkv_cy.chat import (
    FORMATS,
    ChatFormat,
    Conversation,
    Message,
    TemplateFormat,
    Tool,
    ToolCall,
    build_prompt,
    choose_format,
)
from rwkv_cy.errors import ConfigError, FormatError
from rwkv_cy.text import ByteTokenizer
from rwkv_cy.toolkit.convert import convert

pytest.importorskip("minijinja", reason="chat templates need minijinja")

#: In the manner of the ones on the hub: whitespace control, namespaces, string methods, tojson, errors.
TEMPLATE = """
{%- set ns = namespace(first=true) -%}
{{ bos_token }}
{%- if tools %}
<tools>
{% for tool in tools %}
{{ tool | tojson }}
{% endfor %}
</tools>
{% endif %}
{%- for message in messages %}
    {%- if message['role'] == 'developer' %}{{ raise_exception('Unknown role') }}{% endif %}
    {%- if message.role == 'assistant' and '</think>' in message.content %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
    {%- else %}{% set content = message.content %}{% endif %}
<|{{ message.role }}|>{{ content.strip() }}
    {%- for call in message.tool_calls or [] %}
<call>{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}</call>
    {%- endfor %}{{ eos_token }}
{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% if enable_thinking %}<think>{% endif %}{% endif %}"""
SPECIALS = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT = TemplateFormat(TEMPLATE, "template.jinja", SPECIALS)
MESSAGES = (
    Message("system", "Be <brief> & 'kind'."),
    Message("user", " Grüße "),
    Message("assistant", "", calls=(ToolCall("1", "f", '{"a": "é<"}'),)),
    Message("tool", "42", call_id="1"),
    Message("assistant", "x</think>\nyes"),
    Message("user", "ok"),
)
TOOL = Tool("f", "does é", {"type": "object"})


def text_of(chat: TemplateFormat, conversation: Conversation) -> str:
    return "".join(part.text for part in chat.segments(conversation)[0])


def test_the_text_is_that_of_jinja2() -> None:
    jinja2 = pytest.importorskip("jinja2", reason="compares with jinja2")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    function = {"name": "f", "description": "does é", "parameters": {"type": "object"}}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": "é<"}}}
    messages = [{"role": message.role, "content": message.content} for message in MESSAGES]
    messages[2]["tool_calls"] = [call]  # type: ignore[assignment]
    for thinking in ("on", "off"):
        expected = environment.from_string(TEMPLATE).render(
            messages=messages,
            tools=[{"type": "function", "function": function}],
            add_generation_prompt=True,
            enable_thinking=thinking == "on",
            **SPECIALS,
        )
        conversation = Conversation(MESSAGES, (TOOL,), thinking=thinking)
        assert text_of(CHAT, conversation) == expected


def test_message_ends_and_the_opening() -> None:
    conversation = Conversation((*MESSAGES[:2], Message("user", "B", breakpoint=True)), thinking="on")
    prompt = build_prompt(CHAT, conversation, ByteTokenizer())
    data = bytes(prompt.tokens)
    ends = [data[:place].decode().rsplit("|>", 1)[1] for place in prompt.message_ends]
    assert ends == ["Be <brief> & 'kind'.</s>\n", "Grüße</s>\n", "B</s>\n"]
    assert prompt.breakpoints == prompt.message_ends[-1:]
    assert prompt.opening == "<think>"
    assert data.endswith(b"<|assistant|><think>")


def test_an_answer_that_goes_on() -> None:
    conversation = Conversation((Message("user", "A"), Message("assistant", "B ")))
    assert text_of(CHAT, conversation).endswith("<|user|>A</s>\n<|assistant|>B")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "ran out of fuel"),
        ("{{ messages[0].__class__.__mro__ }}", "undefined"),
        ("{{ messages[0].content.__class__() }}", "unknown method"),
        ("{% for", "syntax error"),
        ("{% include '/etc/passwd' %}", "template"),
    ],
)
def test_a_template_of_a_stranger(source: str, problem: str) -> None:
    with pytest.raises(FormatError, match=f"evil: chat template: .*{problem}"):
        TemplateFormat(source, "evil").segments(Conversation((Message("user", "A"),)))


def test_a_template_that_is_too_long() -> None:
    with pytest.raises(FormatError, match="chat template: expected at most 200000 characters"):
        TemplateFormat(" " * 200_001, "long")


def test_messages_that_a_template_refuses() -> None:
    with pytest.raises(ConfigError, match="the chat template refuses them: Unknown role"):
        CHAT.segments(Conversation((Message("developer", "A"),)))


def write_folder(folder: Path, settings: object) -> Path:
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_the_template_of_a_folder(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "a", {"chat_template": "T", "bos_token": "<s>", "eos_token": {"content": "</s>"}, "x": 1.5}
    )
    chat = choose_format(folder)
    assert isinstance(chat, TemplateFormat)
    assert (chat.source, dict(chat.specials)) == ("T", SPECIALS)
    (folder / "chat_template.jinja").write_text("of its own file")
    assert choose_format(folder).source == "of its own file"  # type: ignore[union-attr]
    several = write_folder(tmp_path / "b", {"chat_template": [{"name": "default", "template": "D"}]})
    assert choose_format(several).source == "D"  # type: ignore[union-attr]


def test_a_template_that_is_a_name(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "rwkv7-g1d-0.1b", {"chat_template": "rwkv-world"})
    assert choose_format(folder) is FORMATS["g1"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rwkv7-g1d-0.1b-20260129-ctx8192.pth", "g1"),
        ("RWKV7-G1k-2.9B", "g1"),
        ("rwkv7-g0a2-7.2b.pth", "g1"),
        ("RWKV-x070-World-0.1B-v2.8.pth", "world"),
        ("big1.pth", "world"),
    ],
)
def test_the_format_by_name(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    assert choose_format(tmp_path / name) is FORMATS[expected]


def test_a_format_by_name(tmp_path: Path) -> None:
    assert choose_format(tmp_path, "g1") is FORMATS["g1"]
    (tmp_path / "x.jinja").write_text("{{ messages[0].content }}")
    chat = choose_format(tmp_path, str(tmp_path / "x.jinja"))
    assert isinstance(chat, TemplateFormat)
    assert text_of(chat, Conversation((Message("user", "A"),))) == "A"
    with pytest.raises(ConfigError, match="format: expected auto, world, g1 or a .jinja file, got 'chatml'"):
        choose_format(tmp_path, "chatml")


def test_the_formats_of_model_files(tmp_path: Path, kjv_checkpoint: Path) -> None:
    source = tmp_path / "rwkv7-g1x-0.1b.pth"
    source.write_bytes(kjv_checkpoint.read_bytes())
    convert(source, tmp_path / "model.h5")
    assert choose_format(tmp_path / "model.h5") is FORMATS["g1"]
    assert isinstance(choose_format(kjv_checkpoint), ChatFormat)


def test_the_template_of_a_gguf_file(tmp_path: Path) -> None:
    with_name = write_gguf(tmp_path / "rwkv7-g1d.gguf", "rwkv-world")
    assert choose_format(with_name) is FORMATS["g1"]
    chat = choose_format(write_gguf(tmp_path / "other.gguf", TEMPLATE))
    assert isinstance(chat, TemplateFormat)
    assert (chat.source, chat.where) == (TEMPLATE, str(tmp_path / "other.gguf"))


def write_gguf(path: Path, template: str) -> Path:
    """Write the metadata of a GGUF file without tensors."""
    key, text = b"tokenizer.chat_template", template.encode()
    entry = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(text)) + text
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry)
    return path
