"""Settings of the server: limits and routes, from a YAML file and the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

from wishbone.core.config.compose import Config, parse
from wishbone.core.config.schema import structured
from wishbone.core.contract.errors import ConfigError, UsageError
from wishbone.core.contract.part import Count, OneOf, Positive, Range, Size

SYSTEMS = ("quickstart-rwkv7", "quickstart-transformer")
"""Systems that are served where none is named."""
KEYS = ("systems", "folder", "voices", "log", "limits", "routes", "hosts")
"""Keys of the YAML file."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names of models, routes and voices: no separator, no leading dot, so no way out of a folder."""
SLOTS_BY_CORE = 4
"""Streams that one core keeps up with, with room to spare (core/serve/README.md)."""


@dataclass(frozen=True)
class Limits:
    """Bounds on what requests may take."""

    slots: Count = 0
    """Requests of one system that speak at once; 0 means four for each core, 4 to 16."""
    queue: Count = 32
    """Requests of one system that wait for a slot, or whose answer is still being sent."""
    characters: Size = 4096
    """Characters of a text."""
    seconds: Positive = 600.0
    """Seconds of audio in an answer."""
    timeout: Positive = 300.0
    """Seconds from a request's arrival until all of it is spoken."""
    stall: Positive = 30.0
    """Seconds that a client may neither send nor take a byte."""
    drain: Positive = 30.0
    """Seconds that running requests have after SIGTERM."""
    upload: Annotated[int, Range(1, 2**30)] = 10_000_000
    """Bytes of a recording to make a voice of."""
    voices: Count = 1000
    """Voices in the folder."""
    connections: Size = 256
    """Open connections."""

    def resolved(self) -> Limits:
        """The same with a number of slots."""
        cores = os.cpu_count() or 1
        return replace(self, slots=self.slots or min(16, max(4, SLOTS_BY_CORE * cores)))

    def lines(self) -> list[str]:
        """All limits, for people."""
        return [f"{each.name} {getattr(self, each.name):g}" for each in fields(self)]


@dataclass(frozen=True)
class Route:
    """A model name that is answered by several systems, each with a share of the clients."""

    arms: dict[str, float] = field(default_factory=dict)
    """System -> weight."""
    sticky: Annotated[str, OneOf("client", "header", "cookie")] = "client"
    """By which a client gets the same arm each time: its address and user agent; the header
    X-Wishbone-Client; a cookie that the first answer sets."""


@dataclass(frozen=True)
class Settings:
    """All that the server is told."""

    systems: Mapping[str, str]
    """Model name -> configuration of a system, as ``wishbone say --system`` takes it."""
    folder: Path = Path("runs/serve")
    """Folder of voices, votes and the log."""
    voices: Path | None = None
    """Folder of uploaded voices; None means ``voices`` below ``folder``."""
    log: bool = False
    """Write each request with its text to ``items.jsonl`` in the folder."""
    limits: Limits = field(default_factory=Limits)
    routes: Mapping[str, Route] = field(default_factory=dict)
    hosts: Sequence[str] = ()
    """Names by which clients may call this server beside its address, as behind a proxy."""
    host: str = "127.0.0.1"
    port: int = 8880
    token: str = ""
    """Word that clients must send; empty where everybody on this machine may speak."""
    engine: str = "auto"
    device: str = "cpu"

    @property
    def voice_folder(self) -> Path:
        """Folder of uploaded voices."""
        return self.voices or self.folder / "voices"

    @property
    def is_local(self) -> bool:
        """True where only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self) -> Settings:
        """Return itself. Raises ``UsageError`` and ``ConfigError`` for what cannot be served."""
        if not self.is_local and not self.token:
            raise UsageError(
                f"'{self.host}' can be reached by others, and there is no token.",
                "--host",
                "Set WISHBONE_TOKEN or give --token-file FILE, or stay at 127.0.0.1.",
            )
        for name in (*self.systems, *self.routes):
            if not NAME.fullmatch(name):
                raise ConfigError(
                    f"'{name}' cannot be the name of a model.",
                    "systems and routes",
                    "Use letters, digits, '.', '_' and '-': systems: {NAME: FILE}.",
                )
        for name, route in self.routes.items():
            _check_route(name, route, self.systems)
        return self


def read_settings(path: str | Path) -> Settings:
    """Read a YAML file with the keys ``KEYS``. Raises ``ConfigError`` with file and line."""
    path = Path(path)
    if not path.is_file():
        raise UsageError("There is no such file.", str(path), "Give a YAML file of settings.")
    values, lines = parse(path)
    config = Config(values, path, {key: f"{path}:{line}" for key, line in lines.items()})
    for key in values:
        if key not in KEYS:
            raise ConfigError(
                f"'{key}' is not a key of the server's settings.",
                config.place(key),
                f"Keys are {', '.join(KEYS)}.",
            )
    routes = _mapping(config, "routes")
    # names of systems in a file are looked up from the file's own folder
    systems = {name: _beside(path, source) for name, source in _systems(config).items()}
    return Settings(
        systems=systems,
        folder=path.parent / str(values.get("folder", "runs/serve")),
        voices=path.parent / str(values["voices"]) if values.get("voices") else None,
        log=bool(values.get("log", False)),
        limits=structured(Limits, _mapping(config, "limits"), "limits", config),
        routes={
            name: structured(Route, _as_mapping(config, f"routes.{name}", route), name, config)
            for name, route in routes.items()
        },
        hosts=[str(host) for host in values.get("hosts") or ()],
    )


def model_names(sources: Sequence[str]) -> dict[str, str]:
    """Give systems of the command line names: a bundled name is its own, a file its stem."""
    names: dict[str, str] = {}
    for source in sources:
        path = Path(source)
        name = path.stem if path.suffix in (".yaml", ".yml") else path.name
        if name in ("config", "export", "") or name in names:
            name = path.resolve().parent.name
        if name in names or not NAME.fullmatch(name):
            raise UsageError(
                f"The system '{source}' has no name of its own.",
                "wishbone serve",
                "Name systems in a file: systems: {NAME: FILE}, and give it by --config.",
            )
        names[name] = source
    return names


def read_token(file: str | None) -> str:
    """Read the token from a file or the environment; empty where there is none."""
    if file is None:
        return os.environ.get("WISHBONE_TOKEN", "").strip()
    try:
        token = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("The token cannot be read.", file, "Check --token-file.") from error
    if not token or not token.isascii() or not token.isprintable():
        raise UsageError(
            "The file holds no token.", file, "Write one line of letters and digits into it."
        )
    return token


def _systems(config: Config) -> dict[str, str]:
    value = config.get("systems") or list(SYSTEMS)
    if isinstance(value, Mapping):
        return {str(name): str(source) for name, source in value.items()}
    if isinstance(value, list):
        return model_names([str(source) for source in value])
    return model_names([str(value)])


def _beside(path: Path, source: str) -> str:
    beside = path.parent / source
    return str(beside) if beside.exists() else source


def _mapping(config: Config, key: str) -> dict[str, Any]:
    return _as_mapping(config, key, config.get(key) or {})


def _as_mapping(config: Config, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{key} holds names and values.", config.place(key), f"Write {key}: {{NAME: VALUE}}."
        )
    return {str(name): inner for name, inner in value.items()}


def _check_route(name: str, route: Route, systems: Mapping[str, str]) -> None:
    unknown = [arm for arm in route.arms if arm not in systems]
    if unknown or not route.arms:
        raise ConfigError(
            f"The route '{name}' names no system that is served: {', '.join(unknown) or 'none'}.",
            f"routes.{name}.arms",
            f"Name one or more of {', '.join(systems)}.",
        )
    if name in systems:
        raise ConfigError(
            f"'{name}' is a route and a system.", f"routes.{name}", "Give the route another name."
        )
    if any(not 0 <= share < float("inf") for share in route.arms.values()) or not any(
        route.arms.values()
    ):
        raise ConfigError(
            f"The shares of the route '{name}' are no shares.",
            f"routes.{name}.arms",
            "Give each arm a number of at least 0, and one of them more.",
        )
