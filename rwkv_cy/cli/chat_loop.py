"""The loop of a chat: messages and commands in, answers out."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rwkv_cy.chat import THINKING_MODES, ChatSession, Reply, TextDelta, load_chat, save_chat
from rwkv_cy.cli.colours import styled
from rwkv_cy.cli.output import is_quiet, print_error, printable
from rwkv_cy.errors import ConfigError, RWKVError

__all__ = ["ChatLoop"]


class _Command(NamedTuple):
    """A command of a chat.

    Attributes
    ----------
    argument : str
        What follows its name, for the help.
    text : str
        What it does.
    run : callable
    """

    argument: str
    text: str
    run: Callable[[ChatLoop, str], None]


class ChatLoop:
    """Reads messages and commands until the input ends, and prints the answers.

    Parameters
    ----------
    session : ChatSession
    read : callable
        Returns the next message; raises EOFError at the end.
    terminal : bool
        Whether a person reads: errors and Ctrl-C then end an answer, not the chat, and thoughts are shown.
    """

    def __init__(self, session: ChatSession, read: Callable[[], str], *, terminal: bool) -> None:
        self.session = session
        self._read = read
        self._terminal = terminal

    def run(self) -> None:
        """Talk until the input ends.

        Raises
        ------
        RWKVError, KeyboardInterrupt
            Without a terminal.
        """
        while True:
            try:
                with self._reading_ahead():
                    text = self._read()
            except EOFError:
                self._write("\n" if self._terminal else "")
                return
            except KeyboardInterrupt:
                if not self._terminal:
                    raise
                self._write("\n")
                self.note("Ctrl-D ends the chat")
                continue
            try:
                self._handle(text)
            except RWKVError as error:
                if not self._terminal:
                    raise
                print_error(str(error))
            except KeyboardInterrupt:
                if not self._terminal:
                    raise
                self._write("\n")

    def note(self, text: str) -> None:
        """Print a line about the chat on standard error; with --quiet, nothing."""
        if not is_quiet():
            print(styled(printable(text), "dim", sys.stderr), file=sys.stderr, flush=True)

    def load(self, name: str) -> None:
        """Continue a saved chat."""
        fits = load_chat(self.session, _file(name))
        count = len(self.session.messages)
        self.note(f"{name}: {count} messages{'' if fits else '; without a state that fits, they are read again'}")

    def _handle(self, text: str) -> None:
        if not text.strip():
            return
        if text.startswith("//"):
            self._answer(self.session.ask(text[1:]))
        elif text.startswith("/"):
            name, _, argument = text[1:].partition(" ")
            command = _COMMANDS.get(name.strip())
            if command is None:
                raise ConfigError(f"/{name[:40]}: expected a command of /help; // begins a message with /")
            command.run(self, argument.strip())
        else:
            self._answer(self.session.ask(text))

    def _answer(self, reply: Reply) -> None:
        """Print an answer as it comes. An interrupted one is part of the chat, if there is any text of it."""
        kind = ""
        try:
            for event in reply:
                if isinstance(event, TextDelta):
                    self._write_piece(event, kind)
                    kind = event.kind
        except KeyboardInterrupt:
            if not self._terminal:
                raise
            self._write("\n")
            if reply.answer.content or reply.answer.reasoning:
                reply.finish()
            self.note("stopped; /regenerate answers anew, /undo takes the question back")
            return
        self._write("\n")
        if reply.finish_reason == "length":
            self.note(f"the answer reached {len(reply.tokens)} tokens, the limit that --max-tokens sets")

    def _write_piece(self, event: TextDelta, before: str) -> None:
        if not self._terminal:
            self._write(event.text if event.kind == "content" else "")
            return
        if before and before != event.kind:
            self._write("\n\n")
        # The model's text is untrusted: control characters are escaped on a terminal.
        text = printable(event.text, keep="\n\t")
        self._write(styled(text, "dim", sys.stdout) if event.kind == "reasoning" else text)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    @contextmanager
    def _reading_ahead(self) -> Iterator[None]:
        """Let the model read the last answer as part of the past, while a person types."""
        if not self._terminal:
            yield
            return
        stop = threading.Event()
        thread = threading.Thread(target=self._read_ahead, args=[stop], daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _read_ahead(self, stop: threading.Event) -> None:
        try:
            self.session.read_ahead(stop.is_set)
        except RWKVError:
            return  # the next answer meets the same error, and reports it

    # Commands.

    def _help(self, _: str) -> None:
        width = max(len(f"/{name} {command.argument}") for name, command in _COMMANDS.items())
        for name, command in _COMMANDS.items():
            self._write(f"{f'/{name} {command.argument}':{width}}  {command.text}\n")
        self._write('A line that ends in \\ goes on in the next; """ begins and ends a message of several lines.\n')

    def _undo(self, _: str) -> None:
        self.note(f"taken back: {self.session.undo().content}")

    def _regenerate(self, _: str) -> None:
        self._answer(self.session.regenerate())

    def _save(self, name: str) -> None:
        save_chat(self.session, _file(name), overwrite=True)
        self.note(f"{name}: {len(self.session.messages)} messages")

    def _think(self, mode: str) -> None:
        if mode not in THINKING_MODES:
            raise ConfigError(f"/think: expected {', '.join(THINKING_MODES)}, got {mode[:40]!r}")
        self.session.thinking = mode
        self.note(f"thinking: {mode}")

    def _system(self, text: str) -> None:
        self.session.system = text
        self.note(f"system: {self.session.system or 'none'}")

    def _new(self, _: str) -> None:
        self.session.clear()
        self.note("a new chat")


def _file(name: str) -> str:
    if not name:
        raise ConfigError("expected the name of a file, got none; write it after the command, as /save chat.json")
    return name


_COMMANDS = {
    "help": _Command("", "list the commands", ChatLoop._help),
    "undo": _Command("", "take back the last message and its answer", ChatLoop._undo),
    "regenerate": _Command("", "answer the last message anew", ChatLoop._regenerate),
    "save": _Command("FILE", "write the chat to a file, with its state beside it", ChatLoop._save),
    "load": _Command("FILE", "continue a chat that was saved", ChatLoop.load),
    "think": _Command("on|fake|off", "whether the model thinks before it answers", ChatLoop._think),
    "system": _Command("TEXT", "set the system message; without TEXT, remove it", ChatLoop._system),
    "new": _Command("", "begin a new chat", ChatLoop._new),
}
