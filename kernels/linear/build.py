"""Plain C++ into a shared library of this machine, once, on demand, in the user's cache.

The sources need neither Python's nor PyTorch's headers: a compiler is done within seconds, and the
library fits any version of either. It is compiled for the very processor it runs on, so its name
says the sources and the processor, and a cache that several machines share is safe.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent / "native"
COMPILERS = ("c++", "g++", "clang++")
"""Tried in this order, after the environment's CXX."""
FLAGS = (
    "-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-shared", "-fPIC",
)  # fmt: skip
TRIES = (("-march=native", "-fopenmp"), ("-mcpu=native",), ("-march=native",), ())
"""What is added, the best first: Apple's compiler has no OpenMP, some have no ``native``."""
SECONDS = 120
"""How long a compiler may take; it needs one or two."""


class NativeMissing(RuntimeError):
    """There is no native library, and the message says why."""


def cache_folder() -> Path:
    """Where libraries are kept: ``WISHBONE_CACHE``, else the user's cache folder."""
    own = os.environ.get("WISHBONE_CACHE")
    if own:
        return Path(own) / "native"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wishbone" / "native"


def library(name: str, source: Path, *, build: bool) -> ctypes.CDLL:
    """The library made from ``source``; compiled now if it never was and ``build`` allows it.

    Raises ``NativeMissing`` where it is not built, cannot be built or cannot be trusted.
    """
    target = library_path(name, source)
    if not target.exists():
        if not build:
            raise NativeMissing("the C++ extension is not built yet; engine 'native' builds it")
        _compile(source, target)
    return _load(target)


def library_path(name: str, source: Path) -> Path:
    """Where the library of ``source`` is or will be."""
    digest = hashlib.sha256(repr((FLAGS, TRIES, _processor())).encode())
    for path in (source, *sorted(HERE.glob("*.h"))):
        digest.update(path.read_bytes())
    return cache_folder() / f"{name}-{digest.hexdigest()[:20]}.so"


def state(name: str, source: Path) -> str:
    """Why ``library`` would not answer without building; empty when it would."""
    if library_path(name, source).exists():
        return ""
    return compiler_missing() or (
        "not built yet; the first use of the engine 'native' builds it within seconds"
    )


def compiler_missing() -> str:
    """Why nothing can be compiled here; empty where it can."""
    return "" if compiler() else "no C++ compiler found (looked for CXX, c++, g++, clang++)"


def compiler() -> str | None:
    """A C++ compiler, or None."""
    chosen = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, filter(None, (chosen, *COMPILERS)))), None)


@cache
def _processor() -> str:
    """What ``native`` means here: two machines with the same answer run the same instructions."""
    words = [platform.machine(), sys.platform]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return repr((*words, platform.processor()))
    wanted = ("flags", "Features", "model name", "CPU part")
    return repr((*words, *(next((x for x in lines if x.startswith(w)), "") for w in wanted)))


def _compile(source: Path, target: Path) -> None:
    program = compiler()
    if program is None:
        raise NativeMissing(compiler_missing())
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / target.name
            _run(program, source, made)
            made.chmod(0o700)
            os.replace(made, target)
    except OSError as error:
        raise NativeMissing(f"{target.parent} cannot be written: {error.strerror}") from error


def _run(program: str, source: Path, made: Path) -> None:
    said = ""
    for extra in TRIES:
        command: Sequence[str] = (
            program, *FLAGS, *extra, f"-I{HERE}", str(source), "-o", str(made),
        )  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise NativeMissing(f"{program} took more than {SECONDS} s") from error
        if done.returncode == 0:
            return
        said = said or (done.stderr.strip().splitlines() or ["no reason given"])[0]
    raise NativeMissing(f"{program} failed: {said}")


def _load(target: Path) -> ctypes.CDLL:
    """Load a library, unless somebody else could have written it."""
    if hasattr(os, "getuid"):
        for path in (target, target.parent):
            status = path.stat()
            if status.st_uid not in (os.getuid(), 0) or status.st_mode & 0o022:
                raise NativeMissing(f"others may write {path}; remove it to have it built again")
    try:
        return ctypes.CDLL(str(target))
    except OSError as error:
        raise NativeMissing(f"{target} cannot be loaded: {error}") from error
