from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import rwkv_cy
from checkpoints import small_parameters, write_safetensors, write_small
from cli.conftest import Run
from rwkv_cy.__main__ import main as entry_point
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.main import main
from tools.command_pages import commands

COMMANDS = tuple(commands())


def test_help_names_commands_and_exit_codes(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    assert all(command in result.out for command in COMMANDS)
    assert "exit codes:" in result.out
    assert "130  interrupted" in result.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert "--debug" in result.out


def test_version(run: Run) -> None:
    assert run("--version").out == f"rwkv-cy {rwkv_cy.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paint"], "unknown command 'paint'; choose from pull, models, convert, quantize, merge"),
        (["convrt"], "unknown command 'convrt'; did you mean convert? choose from"),
        (["--verison"], "unknown option --verison; did you mean --version?"),
        (["inspect"], "FILE is missing: rwkv-cy inspect FILE"),
        (["convert", "a"], "TARGET is missing: rwkv-cy convert SOURCE TARGET"),
        (["convert", "a", "b", "--dtype", "f9"], "argument --dtype: invalid choice: 'f9'; choose from keep, f64"),
        (["generate", "--max-tokens", "-1"], "argument -n/--max-tokens: expected a non-negative integer, got '-1'"),
        (["generate", "--top-p", "2"], "argument --top-p: expected a number from 0 to 1, got '2'"),
        (["verify", "a", "--loud"], "unknown option --loud"),
        (["convert", "a", "b", "--dtpye", "q8"], "unknown option --dtpye; did you mean --dtype"),
        (["convert", "a", "b", "--dtpye=q8"], "unknown option --dtpye; did you mean --dtype"),
        (["convert", "a", "b", "--dtype", "Q8_0"], "unknown type 'Q8_0'; did you mean q8?"),
        (["inspect", "a", "b"], "unexpected argument 'b'; inspect describes one file, and diff compares two\n"),
        (["convert", "a", "b", "q8"], "unexpected argument 'q8'; did you mean --dtype q8?"),
        (["convert", "a", "b", "float16"], "unexpected argument 'float16'; did you mean --dtype f16?"),
        (["generate", "--greedy"], "unknown option --greedy; did you mean --temperature 0?"),
        (["verify", "--greedy", "a"], "unknown option --greedy\n"),
        (["generate", "--model", "a"], "unknown option --model; did you mean MODEL, an argument without a name?"),
        (["generate", "--version"], "unknown option --version; did you mean rwkv-cy --version?"),
        (["run"], "unknown command 'run'; did you mean generate? choose from"),
        (["ls"], "unknown command 'ls'; did you mean inspect? choose from"),
        (["convert", "a", "-o", "b"], "unknown option -o; did you mean TARGET, an argument without a name?"),
        (["inspect", "a", "-o", "b"], "unknown option -o\n"),
        (["generate", "a", "-Hi"], "unknown option -Hi; write -- before a text that begins with -\n"),
        (["inspect", "-a.h5"], "unknown option -a.h5\n"),
        (["generate", "-p", "-Hi"], "expected one argument; write a value that begins with - as --prompt=-Hi\n"),
        (["generate", "a", "b", "--stop", "-x", "-n", "3"], "write a value that begins with - as --stop=-x\n"),
        (["generate", "a", "b", "--stop", "-n", "3"], "argument --stop: expected one argument\n"),
        (["generate", "--fp16"], "unknown option --fp16; did you mean --dtype f16?"),
        (["generate", "--max-new-tokens", "5"], "unknown option --max-new-tokens; did you mean --max-tokens?"),
        (["version"], "unknown command 'version'; did you mean rwkv-cy --version? choose from"),
        (["generate", "a", "--", "-x", "-n", "2"], "unexpected argument '-n' after --; give options before --"),
        (["inspect", "a", "--no-tensors", "--tensors", "x"], "not allowed with argument --no-tensors"),
        (["inspect", "a", "--no-tensors", "--stats"], "--no-tensors hides them; leave one out"),
        (["generate", "a", "In", "the", "beginning"], "unexpected argument 'the'; put quotes around text"),
        (["tokenize", "a", "In", "the"], "unexpected argument 'the'; put quotes around text"),
        (["perplexity", "a", "In", "the"], "unexpected argument 'the'\n"),
        (["inspect", "a", "--\x1b[2J"], "unknown option --\\x1b[2J"),
    ],
)
def test_a_wrong_command_line_is_code_2(run: Run, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert result.err.startswith("rwkv-cy: error: ")
    assert message in result.err
    command = arguments[0] if arguments[0] in COMMANDS else ""
    assert result.err.endswith(f"\ntry 'rwkv-cy {command}{' ' if command else ''}--help'\n")
    assert result.err.count("\n") == 2


def test_without_arguments_help_is_shown(run: Run) -> None:
    result = run()
    assert (result.code, result.out) == (2, "")
    assert result.err == run("--help").out


@pytest.mark.parametrize("place", [0, 3])
def test_quiet_leaves_out_warnings_and_reports(run: Run, tmp_path: Path, place: int) -> None:
    source = write_small(tmp_path / "s", vocab=300)
    words = ["convert", source, tmp_path / "m.h5"]
    loud = run(*words, "--force")
    assert "warning: " in loud.err
    words.insert(place, "-q")
    quiet = run(*words, "--force")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    assert run("convert", source, tmp_path / "none" / "m.h5", "--quiet").err.startswith("rwkv-cy: error: ")
    assert json.loads(run(*words, "--force", "--json").out)["plan"]


def test_quiet_ends_with_the_command(run: Run, tmp_path: Path) -> None:
    source = write_small(tmp_path / "s", vocab=300)
    run("convert", source, tmp_path / "m.h5", "--quiet")
    assert "warning: " in run("convert", source, tmp_path / "m.h5", "--force").err


def test_quiet_leaves_results(run: Run, small: Path) -> None:
    for command in ("inspect", "info", "perplexity"):
        words = [command] if command == "info" else [command, small]
        words += [small.with_name("text")] if command == "perplexity" else []
        words += ["--no-speed"] if command == "inspect" else []  # a speed differs each time
        small.with_name("text").write_text("In the beginning")
        assert run(*words, "--quiet").out == run(*words).out != ""
    assert run("verify", small, "--quiet").out == run("diff", small, small, "-q").out == ""


def test_help_as_a_command(run: Run) -> None:
    assert run("help").out == run("--help").out
    assert run("help", "verify").out == run("verify", "--help").out


@pytest.mark.parametrize("words", [("--help", "convert"), ("-q", "-h", "convert"), ("-qh", "verify"), ("--he", "diff")])
def test_help_before_a_command_lists_all_of_them(run: Run, words: tuple[str, ...]) -> None:
    assert run(*words).out == run("--help").out


@pytest.mark.parametrize("command", [["inspect"], ["verify"], ["convert"], ["generate", "--max-tokens", "1"]])
def test_a_missing_file_is_code_3(run: Run, tmp_path: Path, command: list[str]) -> None:
    result = run(*command, tmp_path / "none", *([tmp_path / "t"] if command[0] in ("convert", "generate") else []))
    assert result.code == 3
    assert result.out == ""
    assert result.err.startswith(f"rwkv-cy: error: {tmp_path / 'none'}: ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("command", [["inspect"], ["verify"], ["convert"], ["generate", "--max-tokens", "1"]])
def test_a_damaged_file_is_code_1(run: Run, tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "page.pth"
    path.write_text("<!doctype html><html>Not found</html>")
    result = run(*command, path, *([tmp_path / "t"] if command[0] in ("convert", "generate") else []))
    assert result.code == 1
    assert result.err.startswith(f"rwkv-cy: error: {path}: ")
    assert "an HTML page" in result.err
    assert result.err.count("\n") == 1


def test_debug_shows_the_traceback(run: Run, tmp_path: Path) -> None:
    result = run("inspect", tmp_path / "none", "--debug")
    assert result.code == 3
    assert "Traceback" in result.err
    assert "StorageError" in result.err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (PermissionError(13, "Permission denied", "some/file"), 3, "error: some/file: Permission denied"),
        (OSError(5, "Input/output error"), 3, "error: standard input or output: Input/output error"),
        (MemoryError(), 3, "error: out of memory\n"),
        (MemoryError("8 GiB"), 3, "error: out of memory: 8 GiB\n"),
        (KeyboardInterrupt(), 130, "rwkv-cy: interrupted\n"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)
def test_other_errors(run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("rwkv_cy.toolkit.inspect.inspect", fail)
    result = run("inspect", "x")
    assert result.code == code
    assert message in result.err
    assert message or not result.err


def test_debug_goes_before_the_subcommand_too(run: Run, tmp_path: Path) -> None:
    result = run("--debug", "inspect", tmp_path / "none")
    assert result.code == 3
    assert "Traceback" in result.err


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_cy.toolkit.inspect.inspect", lambda *arguments, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", "x"])


def test_names_from_files_cannot_drive_the_terminal(run: Run, tmp_path: Path) -> None:
    odd = tmp_path / "\x1b]0;owned\x07"
    odd.write_text("<html>")
    result = run("inspect", odd)
    assert "\x1b" not in result.err
    assert "\\x1b]0;owned\\x07" in result.err
    write_safetensors(odd, small_parameters())
    result = run("inspect", odd)
    assert "\x1b" not in result.out
    assert "\\x1b]0;owned\\x07" in result.out


def test_a_reader_that_stops_is_no_error(kjv_checkpoint: Path) -> None:
    """The pipe is closed before the table, which is longer than a pipe's buffer, can be written."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "rwkv_cy", "inspect", "--json", "--stats", str(kjv_checkpoint)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=300, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_behind_standard_output_is_code_3(spawn: Run, kjv_checkpoint: Path) -> None:
    with Path("/dev/full").open("w") as full:
        result = spawn("inspect", kjv_checkpoint, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert result.code == 3
    assert result.err == "rwkv-cy: error: standard input or output: No space left on device\n"


@pytest.mark.parametrize("words", [("--help",), ("help",), ("--version",), ("inspect", "--help")])
def test_help_on_a_full_disk(spawn: Run, words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        result = spawn(*words, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert result.code == 3
    assert result.err == "rwkv-cy: error: standard input or output: No space left on device\n"


def test_a_full_disk_behind_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can be told what is missing, but the code says that something is."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    assert main([]) == 2


@pytest.mark.parametrize(
    ("stream", "arguments", "message"),
    [
        (1, ("info",), "standard output: expected an open stream, got a closed one"),
        (0, ("generate", "--prompt", "-"), "standard input: expected a prompt, got a closed stream; give the prompt"),
    ],
)
def test_a_closed_stream_is_code_3(spawn: Run, stream: int, arguments: tuple[str, ...], message: str) -> None:
    result = spawn(*arguments, preexec_fn=lambda: os.close(stream))
    assert result.code == 3
    assert result.err.startswith(f"rwkv-cy: error: {message}")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_take_no_files_place(closed: str, kjv_checkpoint: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"broken")
    command = ["sh", "-c", f'exec "$0" -m rwkv_cy verify "$1" {closed}', sys.executable, broken]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == (3 if " >&-" in f" {closed}" else 1)
    assert done.stderr + done.stdout == ""
    assert broken.read_bytes() == b"broken"


def test_piped_output_is_complete(spawn: Run, run: Run, kjv_checkpoint: Path) -> None:
    command = ("inspect", kjv_checkpoint, "--no-speed")
    assert spawn(*command).out == run(*command).out


def test_output_in_a_narrow_encoding_is_escaped(spawn: Run, tmp_path: Path) -> None:
    odd = tmp_path / "é中"
    write_safetensors(odd, small_parameters())
    result = spawn("inspect", odd, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert result.code == 0
    assert "\\xe9\\u4e2d" in result.out


def test_an_interrupt_ends_a_generation_with_130(kjv_checkpoint: Path) -> None:
    command = [sys.executable, "-m", "rwkv_cy", "generate", "--prompt", "And", "--max-tokens", "1000000"]
    # A job in the background ignores the signal, and its children would with it.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        process.stdout.read(20)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err == b"rwkv-cy: interrupted\n"


def test_an_interrupt_while_the_command_is_loaded_ends_it_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "rwkv_cy.cli.main", Interrupted())
    assert entry_point() == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "rwkv-cy: interrupted\n"


@pytest.mark.parametrize(("words", "threshold"), [(("info",), 50_000), (("verify", "nothing"), None)])
def test_searches_for_cycles(words: tuple[str, ...], threshold: int | None) -> None:
    """Seldom in a brief command, as usual in others, and in none among what was loaded before."""
    program = (
        "import gc, sys\nusual = gc.get_threshold()[0]\nfrom rwkv_cy.__main__ import main\nmain()\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 10_000, gc.get_threshold()[0], usual)"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    enabled, frozen, found, usual = done.stdout.splitlines()[-1].split()
    assert (enabled, frozen, int(found)) == ("True", "True", threshold or int(usual))


@pytest.mark.parametrize(("words", "searched"), [(("info",), "False"), (("verify", "nothing"), "True")])
def test_a_brief_command_ends_without_a_search_for_cycles(words: tuple[str, ...], searched: str) -> None:
    program = (
        "import atexit, gc\nfrom rwkv_cy.__main__ import main\n"
        "kept = []\nkept.append(kept)\n"
        "atexit.register(lambda: print(any(one is kept for one in gc.get_objects())))\nmain()\n"
        "kept = []\nkept.append(kept)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == searched


def test_a_module_that_is_not_there_is_no_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rwkv_cy.cli.main", None)
    with pytest.raises(ImportError):
        entry_point()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_leaves_nothing_half_written(number: int, code: int, small: Path, tmp_path: Path) -> None:
    """The conversion is stopped where its temporary file exists; an older target stays."""
    target = tmp_path / "t"
    rwkv_cy.convert(small, target)
    older = target.read_bytes()
    program = """
import os, sys
import rwkv_cy.toolkit.convert
from rwkv_cy.cli.main import main
def stop(self, target, start, count):
    os.kill(os.getpid(), int(sys.argv[1]))
    raise AssertionError("the signal did not arrive")
rwkv_cy.toolkit.convert.FileSink.read = stop
sys.exit(main(["convert", *sys.argv[2:], "--force"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(int(number)), small, target],
        timeout=300,
        check=False,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # ignored where the tests run in the background
    )
    assert done.returncode == code
    assert target.read_bytes() == older
    assert {path.name for path in tmp_path.iterdir()} == {"t", small.name}


def test_signals_that_are_ignored_stay_so(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "rwkv_cy.toolkit.inspect.inspect",
        lambda *arguments, **options: seen.append(signal.getsignal(signal.SIGHUP)),
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(AttributeError):
            main(["inspect", "x"])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen == [signal.SIG_IGN]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(("script", "command"), [("inspect_model", "inspect"), ("convert_checkpoint", "convert")])
def test_the_doors_of_a_checkout(script: str, command: str, tmp_path: Path, small: Path) -> None:
    path = Path(__file__).resolve().parents[2] / "tools" / f"{script}.py"
    target = [str(tmp_path / "t")] if command == "convert" else []
    done = subprocess.run(
        [sys.executable, path, small, *target], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "RWKV-4" in done.stdout


def test_an_empty_path_is_not_the_current_folder(run: Run) -> None:
    for arguments in (
        ["inspect", ""],
        ["generate", "", "x"],
        ["convert", "", "m.h5"],
        ["convert", "m.pth", ""],
        ["tokenize", "", "x"],
        ["generate", "m.h5", "x", "--tokenizer", ""],
        ["serve", "m.h5", "--api-key-file", ""],
    ):
        result = run(*arguments)
        assert (result.code, "expected a path, got an empty text" in result.err) == (2, True), arguments
    result = run("chat", "--format", "")  # which is also a name
    assert "format: expected auto, world, g1 or a .jinja file, got ''" in result.err


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("https://example.org/m.pth", "this looks like a URL: download the file, and name it"),
        (
            "https://huggingface.co/RWKV/x/resolve/main/m.pth?download=true",
            "this looks like a URL of the Hugging Face hub: name it as hf:RWKV/x/m.pth",
        ),
        (
            "BlinkDL/rwkv-7-world",
            "this looks like a repository of the Hugging Face hub: name it as hf:BlinkDL/rwkv-7-world",
        ),
        ("missing/model.pth", "check the path"),
        ("./BlinkDL/rwkv7/x", "check the path"),
    ],
)
def test_a_model_that_is_somewhere_else(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("inspect", model)
    assert (result.code, f"No such file or directory; {hint}" in result.err) == (3, True), result.err
    assert model.removeprefix("./") in result.err


@pytest.mark.skipif(sys.platform != "linux", reason="the encoding of file names depends on the locale on Linux")
def test_names_that_are_not_ascii_where_the_locale_is(spawn: Run, tmp_path: Path, kjv_checkpoint: Path) -> None:
    # Other environments make Python use UTF-8.
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    target = tmp_path / "m\xf6del.h5"
    result = spawn("convert", kjv_checkpoint, target, env=environment)
    assert (result.code, result.err) == (0, result.err)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert spawn("verify", target, env=environment).code == 0
