"""``rwkv-cy serve``: OpenAI's API over HTTP."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import common_options, integer, real, some_text
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.model_options import add_text_options, load_text_model
from rwkv_cy.cli.output import print_warning
from rwkv_cy.cli.standard_input import read_text
from rwkv_cy.demo import demo_model_path
from rwkv_cy.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.engine.state_cache import StateCache
    from rwkv_cy.server.settings import Settings

__all__ = ["add_parser"]

_PORT, _MOST_PORT = 8080, 65535
#: The choices of rwkv_cy.chat.THINKING_MODES, which needs NumPy.
_THINKING = ("on", "fake", "off")
_PACKAGES = ("msgspec", "prometheus_client", "starlette", "uvicorn")


def add_parser(commands: Subparsers) -> None:
    """Add ``serve`` to the command's parser."""
    parser = commands.add_parser(
        "serve",
        parents=[common_options()],
        description="Serve a model over HTTP: OpenAI's chat completions, completions, responses, embeddings and "
        "decisions, Anthropic's messages, and a page to talk to the model. Without MODEL, the demo model that comes "
        "with the package is used. Ctrl-C ends the server after the requests in progress.",
        examples=[
            "rwkv-cy serve",
            "rwkv-cy serve rwkv7-g1d-0.4b.pth --dtype q8 --port 8080",
            "rwkv-cy serve model.h5 --host 0.0.0.0 --api-key-file keys.txt --state-folder states",
        ],
    )
    parser.add_argument("model", metavar="MODEL", type=Path, nargs="?", help="a model file or checkpoint")
    _add_addresses(parser)
    _add_chat(parser)
    _add_limits(parser)
    add_text_options(parser)
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    parser.set_defaults(run=_run, parser=parser)


def _add_addresses(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; any but a local one needs a key (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--port",
        type=integer(0, _MOST_PORT),
        default=_PORT,
        metavar="N",
        help=f"port to listen at; 0 for any free one (default: {_PORT})",
    )
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="API keys that requests may have, one a line")
    parser.add_argument(
        "--no-api-key", action="store_true", help="listen at an address that others reach, without a key"
    )
    parser.add_argument(
        "--allow-host",
        type=some_text,
        action="append",
        default=[],
        metavar="NAME",
        help="a name that the Host header may have beside the local ones; repeatable",
    )
    parser.add_argument(
        "--allow-origin",
        type=some_text,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="an origin whose pages may use the API, or * for all; repeatable (default: none)",
    )
    parser.add_argument("--no-page", dest="page", action="store_false", help="do not serve the page at /")


def _add_chat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name", type=some_text, metavar="NAME", help="the model's name in the API (default: that of its file)"
    )
    parser.add_argument(
        "--alias",
        type=some_text,
        action="append",
        default=[],
        metavar="NAME",
        help="another name of the model; repeatable",
    )
    parser.add_argument(
        "--format",
        default="auto",
        metavar="auto|world|g1|FILE.jinja",
        help="prompt format of chats (default: auto, by the model's name or template)",
    )
    parser.add_argument(
        "--thinking",
        choices=_THINKING,
        default="",
        help="whether the model thinks before it answers, if a request does not say (default: fake for g1)",
    )
    parser.add_argument("--state-folder", type=Path, metavar="FOLDER", help="where /v1/states saves to and loads from")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slots", type=integer(1, 4096), default=16, metavar="N", help="texts at once (default: 16)")
    parser.add_argument(
        "--queue", type=integer(1, 1 << 20), default=64, metavar="N", help="requests that may wait (default: 64)"
    )
    parser.add_argument(
        "--cache",
        type=integer(0, 1 << 30),
        default=1024,
        metavar="MIB",
        help="most MiB of states that are kept for prompts with the same beginning; 0 for none (default: 1024)",
    )
    parser.add_argument(
        "--cache-folder", type=Path, metavar="FOLDER", help="keep such states on a disk too, also after the end"
    )
    parser.add_argument(
        "--cache-disk",
        type=integer(1, 1 << 30),
        default=4096,
        metavar="MIB",
        help="most MiB of --cache-folder (default: 4096)",
    )
    parser.add_argument(
        "--max-tokens",
        type=integer(1, 1 << 30),
        default=4096,
        metavar="N",
        help="most tokens of an answer, and the default where a chat names none (default: 4096)",
    )
    parser.add_argument(
        "--max-body", type=integer(1, 1 << 12), default=8, metavar="MIB", help="most MiB of a request (default: 8)"
    )
    parser.add_argument(
        "--timeout", type=real(1), default=600.0, metavar="S", help="seconds that an answer may take (default: 600)"
    )
    parser.add_argument(
        "--grace", type=real(0), default=30.0, metavar="S", help="seconds for answers at the end (default: 30)"
    )


def _run(arguments: argparse.Namespace) -> int:
    _check_packages()
    from rwkv_cy.chat import choose_format
    from rwkv_cy.engine import AsyncEngine, Engine
    from rwkv_cy.server.logs import Log
    from rwkv_cy.server.run import bind, serve
    from rwkv_cy.server.service import Service

    path = arguments.model if arguments.model is not None else demo_model_path()
    settings = _settings(arguments, path)
    chat = choose_format(path, arguments.format)
    with bind(arguments.host, arguments.port) as listening:
        model = load_text_model(path, arguments)
        engine = Engine(model, slots=arguments.slots, queue=arguments.queue, cache=_cache(arguments))
        log = Log(enabled=not arguments.quiet)
        service = Service(model, AsyncEngine(engine), chat, settings, log)
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        address = f"http://{host}:{listening.getsockname()[1]}"

        def started() -> None:
            print(f"{settings.name}: {address}/v1, format {chat.name}", flush=True)
            log.event("started", model=settings.name, address=address)

        serve(service, listening, arguments.grace, started)
        log.event("ended", model=settings.name)
    return ExitCode.OK


def _cache(arguments: argparse.Namespace) -> StateCache | None:
    from rwkv_cy.engine.state_cache import StateCache

    if arguments.cache == 0:
        return None
    limits = {"max_bytes": arguments.cache << 20, "max_disk_bytes": arguments.cache_disk << 20}
    return StateCache(folder=arguments.cache_folder, **limits)


def _check_packages() -> None:
    from importlib.util import find_spec

    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(f"serve needs {', '.join(missing)}: pip install 'rwkv-cy[serve]'")


def _settings(arguments: argparse.Namespace, path: Path) -> Settings:
    """Return the settings, after a check that strangers do not reach a server without a key."""
    from rwkv_cy.server.security import LOCAL_HOSTS, is_loopback, parse_keys
    from rwkv_cy.server.settings import Limits, Settings
    from rwkv_cy.toolkit.schema_names import unicode_only

    keys: tuple[str, ...] = ()
    if arguments.api_key_file is not None:
        name, data = read_text(arguments.api_key_file)
        keys = parse_keys(data.decode("utf-8", "replace"), name)
    local = is_loopback(arguments.host)
    if not local and not keys:
        if not arguments.no_api_key:
            raise ConfigError(
                f"--host {arguments.host}: others reach this address; give --api-key-file FILE, or --no-api-key"
            )
        print_warning(f"{arguments.host}: everybody who reaches this address may use the model")
    folder = arguments.state_folder
    if folder is not None and not folder.is_dir():
        found = ", got a file; name another one" if folder.exists() else "; create it first"
        raise ConfigError(f"--state-folder {folder}: expected a folder{found}")
    hosts = (*LOCAL_HOSTS, *(name.lower() for name in arguments.allow_host)) if local or arguments.allow_host else None
    return Settings(
        name=unicode_only(arguments.name or (path.name if path.is_dir() else path.stem)),
        aliases=tuple(map(unicode_only, arguments.alias)),
        keys=keys,
        hosts=hosts,
        origins=tuple(arguments.allow_origin),
        thinking=arguments.thinking,
        state_folder=folder,
        page=arguments.page,
        limits=Limits(
            body_bytes=arguments.max_body << 20,
            request_seconds=arguments.timeout,
            queue=arguments.queue,
            max_tokens=arguments.max_tokens,
        ),
    )
