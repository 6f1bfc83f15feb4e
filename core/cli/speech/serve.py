"""``wishbone serve``: systems behind OpenAI's speech interface, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from wishbone.core.cli.arguments import COMPUTING, EngineOptions, argument, option, parse
from wishbone.core.contract.part import NonNegative, Range, Size

if TYPE_CHECKING:
    from wishbone.core.serve.settings import Settings

EXAMPLES = """examples:
  wishbone serve
  wishbone serve quickstart-rwkv7 runs/mine/export --port 9000
  wishbone serve --config serve.yaml --json-logs
  wishbone serve quickstart-rwkv7 --measure 60 --clients 8
  WISHBONE_TOKEN=... wishbone serve --host 0.0.0.0
  curl http://127.0.0.1:8880/v1/audio/speech -H 'Content-Type: application/json' -o hello.wav \\
      -d '{"model": "quickstart-rwkv7", "input": "Hello.", "response_format": "wav"}'"""

PACKAGES = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "prometheus_client": "prometheus_client",
    "python_multipart": "python-multipart",
    "websockets": "websockets",
}
"""Module -> distribution of all that the extra brings."""
INSTALL = 'pip install "wishbone-tts[serve]"'
WHERE = "where it listens"
LIMITS = "how much it takes on"
FILES = "what it reads and writes"
MEASURE = "a load test"


@dataclass(frozen=True, kw_only=True)
class ServeOptions(EngineOptions):
    """Serve systems to programs (OpenAI's speech interface) and, at /, to people.

    The first line that says "ready" has the address. SIGTERM lets running requests finish.
    """

    systems: list[str] = argument(
        [], metavar="SYSTEM",
        help="bundled names, YAML files or exported folders; without any, both bundled systems",
    )  # fmt: skip
    config: str | None = option(
        None, metavar="FILE", group=FILES,
        help="a YAML file with systems, folder, voices, log, limits, routes and hosts",
    )  # fmt: skip
    folder: str | None = option(
        None, metavar="FOLDER", group=FILES, default_text="runs/serve",
        help="where uploaded voices, votes and the log are kept",
    )  # fmt: skip
    log: bool = option(
        False, group=FILES, help="write each request, with its text, to items.jsonl in the folder"
    )
    json_logs: bool = option(False, group=FILES, help="write log lines as JSON")
    host: str = option(
        "127.0.0.1", metavar="ADDRESS", group=WHERE,
        help="the address to listen at; any but this machine's own needs a token",
    )  # fmt: skip
    port: Annotated[int, Range(0, 65_535)] = option(
        8880, "-p", metavar="N", group=WHERE, help="the port; 0 takes a free one"
    )
    token_file: str | None = option(
        None, metavar="FILE", group=WHERE,
        help="a file with the word that clients must send; WISHBONE_TOKEN may hold it, too",
    )  # fmt: skip
    slots: Annotated[int, Range(0, 1024)] | None = option(
        None, metavar="N", group=LIMITS, default_text="4 for each core, 4 to 16",
        help="requests of one system that speak at once",
    )  # fmt: skip
    queue: Annotated[int, Range(0, 100_000)] | None = option(
        None, metavar="N", group=LIMITS, default_text="32",
        help="requests of one system that wait for a slot, before others get 429",
    )  # fmt: skip
    measure: NonNegative = option(
        0.0, metavar="SECONDS", group=MEASURE, default_text="serve, and measure nothing",
        help="start a server of the first system on a free port, load it for so long, compare each"
        " answer with the same request alone, and stop it",
    )  # fmt: skip
    clients: Size = option(8, metavar="N", group=MEASURE, help="clients that ask all the time")
    json: str | None = option(
        None, metavar="FILE", group=MEASURE, help="write the figures of --measure to this file"
    )
    device: str = option(
        "cpu", metavar="NAME", group=COMPUTING, help="where it is computed: cpu, cuda, mps, ..."
    )


def main(argv: Sequence[str]) -> int:
    """Parse and serve; returns the exit code."""
    options = parse(ServeOptions, argv, "wishbone serve", EXAMPLES)
    settings = _settings(options)
    _need_packages()
    if options.measure:
        return _measure(options, settings)
    from wishbone.core.serve.web.process import run

    return run(settings, options.json_logs)


def _measure(options: ServeOptions, settings: Settings) -> int:
    """Run the load test -> 0 where nothing failed or differed and memory was flat, else 4."""
    from dataclasses import asdict
    from pathlib import Path

    from wishbone.core.contract.errors import GATE
    from wishbone.core.report.json_file import write_json
    from wishbone.core.serve.load_test import run_load_test

    limits = settings.limits
    words = ["--slots", str(limits.slots), "--queue", str(max(limits.queue, options.clients))]
    words += ["--engine", options.engine, "--device", options.device]
    system = next(iter(settings.systems.values()))
    result = run_load_test(system, words, options.clients, options.measure)
    print("\n".join(result.lines()))
    if options.json:
        write_json(Path(options.json), asdict(result))
    return 0 if result.is_whole and result.is_flat else GATE


def _need_packages() -> None:
    from importlib.util import find_spec

    from wishbone.core.contract.errors import MissingExtra

    missing = [name for module, name in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise MissingExtra(
            f"The server needs {', '.join(missing)}, which cannot be imported.",
            "wishbone serve",
            f"Run: {INSTALL}",
        )


def _settings(options: ServeOptions) -> Settings:
    from dataclasses import replace
    from pathlib import Path

    from wishbone.core.serve.settings import (
        SYSTEMS,
        Settings,
        model_names,
        read_settings,
        read_token,
    )

    if options.config:
        settings = read_settings(options.config)
        if options.systems:
            settings = replace(settings, systems=model_names(options.systems))
    else:
        settings = Settings(model_names(options.systems or SYSTEMS))
    limits = settings.limits
    if options.slots is not None:
        limits = replace(limits, slots=options.slots)
    if options.queue is not None:
        limits = replace(limits, queue=options.queue)
    return replace(
        settings,
        folder=Path(options.folder) if options.folder else settings.folder,
        log=options.log or settings.log,
        limits=limits.resolved(),
        host=options.host,
        port=options.port,
        token=read_token(options.token_file),
        engine=options.engine,
        device=options.device,
    ).check()
