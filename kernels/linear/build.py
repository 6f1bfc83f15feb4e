"""Plain C++ into a shared library of this machine, once, on demand, in the user's cache.

The sources need neither Python's nor PyTorch's headers: a compiler is done within seconds, and the
library fits any version of either. It is compiled for the very processor it runs on, so its name
says the sources and the processor, and a cache that several machines share is safe.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

HERE = Path(__file__).parent / "native"
COMPILERS = ("c++", "g++", "clang++")
"""Tried in this order, after the environment's CXX."""
FLAGS = (
    "-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-shared", "-fPIC",
)  # fmt: skip
TRIES = (("-march=native", "-fopenmp"), ("-mcpu=native",), ("-march=native",), ())
"""Flags that are added, the best first: Apple's compiler has no OpenMP, some have no ``native``."""
SECONDS = 120
"""Seconds that a compiler may take; it needs two or three."""
USUAL = 10
"""Seconds that all libraries of a model take together on a machine with other work to do."""
TRIAL = """
import ctypes, sys
class Matrix(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in ("data", "scale")]
    _fields_ += [(n, ctypes.c_int64) for n in ("rows", "columns", "kind")]
library = ctypes.CDLL(sys.argv[1])
if hasattr(library, "wishbone_matvec"):
    room = [(ctypes.c_char * 65536)() for _ in range(5)]
    data, scale, x, out, whole = ((ctypes.addressof(r) + 63) // 64 * 64 for r in room)
    for kind in range(3):
        matrix = Matrix(data, scale, 16, 64, kind)
        library.wishbone_matvec(
            ctypes.byref(matrix), ctypes.c_int64(1), *map(ctypes.c_void_p, (x, out, whole)),
            ctypes.c_int64(1),
        )
"""
"""Runs a new library once in a process of its own: an instruction that the processor refuses, or
a library that the linker does not find, ends that process and not the user's."""


class NativeMissing(RuntimeError):
    """There is no native library, and the message says why."""


def cache_folder() -> Path:
    """Return the folder of built libraries: ``WISHBONE_CACHE``, else the user's cache folder."""
    override = os.environ.get("WISHBONE_CACHE")
    if override:
        return Path(override) / "native"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wishbone" / "native"


def library(name: str, source: Path, *, build: bool) -> ctypes.CDLL:
    """Return the library of ``source``; compiled now if it never was and ``build`` allows it.

    Raises ``NativeMissing`` where it is not built, cannot be built or cannot be trusted. A build
    that failed is not tried again by the same compiler until ``forget_failures``.
    """
    target = library_path(name, source)
    if not _intact(target):
        if reason := failure(name, source):
            raise NativeMissing(reason)
        if not build:
            raise NativeMissing("the C++ extension is not built yet; engine 'native' builds it")
        _compile(source, target)
    return _load(target)


def library_path(name: str, source: Path) -> Path:
    """Return the path at which the library of ``source`` is or will be."""
    digest = hashlib.sha256(repr((FLAGS, TRIES, _processor())).encode())
    for path in (source, *sorted(HERE.glob("*.h"))):
        digest.update(path.read_bytes())
    return cache_folder() / f"{name}-{digest.hexdigest()[:20]}.so"


def state(name: str, source: Path) -> str:
    """Return why ``library`` would have to build or would fail; empty where it is built."""
    if _intact(library_path(name, source)):
        return ""
    return obstacle(name, source) or f"not built yet; the first use builds it, about {USUAL} s"


def obstacle(name: str, source: Path) -> str:
    """Return why a library that is not built cannot be built either; empty where it can."""
    return failure(name, source) or compiler_missing()


def failure(name: str, source: Path) -> str:
    """Return why this compiler failed on ``source`` before, here; empty if it never did."""
    try:
        record = json.loads(_failure_path(library_path(name, source)).read_text(encoding="utf-8"))
        return str(record["reason"]) if record["compiler"] == _compiler_identity() else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def forget_failures() -> None:
    """Let every build that failed be tried again."""
    for path in cache_folder().glob("*.failed"):
        path.unlink(missing_ok=True)


def compiler_missing() -> str:
    """Return why nothing can be compiled here; empty where there is a compiler."""
    return "" if compiler() else "no C++ compiler found (looked for CXX, c++, g++, clang++)"


def compiler() -> str | None:
    """Return the path of a C++ compiler, or None."""
    chosen = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, filter(None, (chosen, *COMPILERS)))), None)


@cache
def _processor() -> str:
    """Name the processor; two machines of the same name run the same ``native`` instructions."""
    words = [platform.machine(), sys.platform]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return repr((*words, platform.processor()))
    fields = ("flags", "Features", "model name", "CPU part")
    return repr((*words, *(next((x for x in lines if x.startswith(w)), "") for w in fields)))


def _checksum_path(target: Path) -> Path:
    return target.with_suffix(".sha256")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _intact(target: Path) -> bool:
    """Return whether a library is there, whole: loading a damaged one would end the process."""
    try:
        return _checksum_path(target).read_text(encoding="utf-8") == _digest(target)
    except (OSError, ValueError):
        return False


def _failure_path(target: Path) -> Path:
    return target.with_suffix(".failed")


def _compiler_identity() -> str:
    """Return a string that changes with the compiler and with its version in the same place."""
    program = compiler()
    if program is None:
        return ""
    status = Path(program).stat()
    return f"{os.path.realpath(program)} {status.st_size} {status.st_mtime_ns}"


def _compile(source: Path, target: Path) -> None:
    """Build ``target`` unless another process has meanwhile."""
    program = compiler()
    if program is None:
        raise NativeMissing(compiler_missing())
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(target.parent), tempfile.TemporaryDirectory(dir=target.parent) as folder:
            if _intact(target):
                return
            _announce()
            result = Path(folder) / target.name
            try:
                _run(program, source, result)
                _try_out(result)
            except NativeMissing as error:
                record = {"compiler": _compiler_identity(), "reason": str(error)}
                _failure_path(target).write_text(json.dumps(record), encoding="utf-8")
                raise
            result.chmod(0o700)
            # the checksum first: a library without its own is built again
            checksum = Path(folder) / _checksum_path(target).name
            checksum.write_text(_digest(result), encoding="utf-8")
            os.replace(checksum, _checksum_path(target))
            os.replace(result, target)
    except OSError as error:
        raise NativeMissing(f"{target.parent} cannot be written: {error.strerror}") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the one lock of the cache, so that processes and threads build in turn.

    Where the file system has no locks they may build side by side: renaming keeps that correct.
    """
    lock = FileLock(folder / ".lock", timeout=2 * SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise NativeMissing(f"another process has been building in {folder} for long") from error
    except NotImplementedError:
        pass
    try:
        yield
    finally:
        lock.release()


@cache
def _announce() -> None:
    """Print once in a process that building takes a while."""
    print(f"building the C++ decoding steps, once, about {USUAL} s", file=sys.stderr, flush=True)


def _try_out(path: Path) -> None:
    """Raise ``NativeMissing`` for a library that does not run here."""
    command = [sys.executable, "-I", "-c", TRIAL, str(path)]
    try:
        trial = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise NativeMissing(f"what was built did not end within {SECONDS} s") from error
    if trial.returncode:
        reason = (trial.stderr.strip().splitlines() or [f"exit code {trial.returncode}"])[-1]
        raise NativeMissing(f"what was built does not run here: {reason}")


def _run(program: str, source: Path, target: Path) -> None:
    reason = ""
    for extra in TRIES:
        command: Sequence[str] = (
            program, *FLAGS, *extra, f"-I{HERE}", str(source), "-o", str(target),
        )  # fmt: skip
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise NativeMissing(f"{program} took more than {SECONDS} s") from error
        if result.returncode == 0:
            return
        reason = reason or (result.stderr.strip().splitlines() or ["no reason given"])[0]
    raise NativeMissing(f"{program} failed: {reason}")


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
