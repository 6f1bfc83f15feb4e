"""The contract suites: every property of a part that other parts rely on.

For authors of plug-ins and for this repository's own tests::

    from wishbone.core.testing import check

    def test_contract():
        assert all(result.passed for result in check("backbone", "me/mine"))

``wishbone plugins check me/mine`` prints the same. A class may offer a classmethod
``small_config() -> Config``: the suites are then run on it, otherwise on ``Config()`` with the
usual sizes (width, layers, ...) made small. A layout may offer ``small_codes() -> CodeSpace``, the
kind of codec it is for. Nothing here needs pytest or a GPU.
"""

from __future__ import annotations

import dataclasses
import inspect
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wishbone.core.registry.loader import loaded, registry
from wishbone.core.testing import (
    backbone_suite,
    codec_suite,
    head_suite,
    layout_suite,
    mixer_suite,
    tokenizer_suite,
)
from wishbone.core.testing.common import (
    COMMON,
    LIGHT,
    Check,
    CheckResult,
    Skipped,
    Violation,
    small_config,
    trained_looking_,
)
from wishbone.core.testing.extensions import (
    command_suite,
    contender_suite,
    converter_suite,
    corpus_suite,
    metric_suite,
    objective_suite,
    release_suite,
    teacher_suite,
)

WITHOUT_CONFIG = ("corpus", "converter", "release", "command")
"""Kinds whose parts are made without arguments, or called: they have no ``Config``."""

__all__ = [
    "Check",
    "CheckResult",
    "Violation",
    "check",
    "check_class",
    "small_config",
    "suite",
    "trained_looking_",
]


def suite(kind: str) -> Sequence[Check]:
    """Return every check of ``kind``: its own, and the common ones."""
    checks = {
        "backbone": backbone_suite.CHECKS,
        "mixer": mixer_suite.checks("mixer"),
        "ffn": mixer_suite.checks("ffn"),
        "head": head_suite.CHECKS,
        "layout": layout_suite.CHECKS,
        "tokenizer": tokenizer_suite.CHECKS,
        "metric": metric_suite.CHECKS,
        "decoder": codec_suite.DECODER_CHECKS,
        "speech_tokenizer": codec_suite.TOKENIZER_CHECKS,
        "teacher": teacher_suite.CHECKS,
        "objective": objective_suite.CHECKS,
        "corpus": corpus_suite.CHECKS,
        "converter": converter_suite.CHECKS,
        "release": release_suite.CHECKS,
        "contender": contender_suite.CHECKS,
        "command": command_suite.CHECKS,
    }
    common = (LIGHT,) if kind in WITHOUT_CONFIG else COMMON
    return (*checks.get(kind, ()), *common)


def check(kind: str, key: str, config: Any = None) -> list[CheckResult]:
    """Run the suite of ``kind`` on the class registered as ``key``, built from ``config``.

    ``config`` is an instance of the class's ``Config``; None means a small one. Raises
    ``UnknownName`` or ``PluginError`` when there is no such part; a failed check never raises.
    """
    cls = registry().get(kind, key)
    return check_class(kind, cls, config, module=registering_module(kind, key))


def check_class(
    kind: str, cls: type, config: Any = None, *, module: str | None = None
) -> list[CheckResult]:
    """As ``check``, for a class that need not be registered.

    ``module`` is the light plug-in module that would register it, if that is to be checked too.
    """
    has_config = dataclasses.is_dataclass(getattr(cls, "Config", None))
    if config is None and kind not in WITHOUT_CONFIG and (has_config or kind != "backbone"):
        config = small_config(cls)
    results: list[CheckResult] = []
    for item in suite(kind):
        results.append(_run(item, cls, config, module))
        if item.name == backbone_suite.PREFLIGHT and not results[-1].passed:
            break
    return _folded(results)


def _folded(results: Sequence[CheckResult]) -> list[CheckResult]:
    """Say a fault once: checks that fail in the same words name the first that did."""
    first: dict[str, str] = {}
    folded = []
    for result in results:
        name = first.setdefault(result.detail, result.name)
        if not result.passed and name != result.name:
            result = dataclasses.replace(result, detail=f"the same as in {name}")
        folded.append(result)
    return folded


def registering_module(kind: str, key: str) -> str | None:
    """Return the name of the plug-in module that registered ``key``; None without one."""
    for plugin in loaded().plugins:
        if any((entry.kind, entry.key) == (kind, key) for entry in plugin.entries):
            return plugin.module.partition(":")[0]
    return None


def _authors_place(error: Exception, cls: type) -> str:
    """File and line of an error in the author's code, the innermost; else where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    try:
        folder = str(Path(inspect.getfile(cls)).resolve().parent)
    except (TypeError, OSError):
        folder = ""
    authored = [frame for frame in frames if folder and frame.filename.startswith(folder)]
    frame = (authored or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"


def _run(item: Check, cls: type, config: Any, module: str | None) -> CheckResult:
    started = time.perf_counter()
    passed, skipped = True, False
    try:
        detail = item.run(cls, config, module) or ""
    except Skipped as reason:
        skipped, detail = True, str(reason)
    except Violation as error:
        passed, detail = False, str(error)
    except Exception as error:  # a part under test may raise anything, and that is its verdict
        place = _authors_place(error, cls)
        passed, detail = False, f"{type(error).__name__}: {error} ({place})"
    seconds = time.perf_counter() - started
    return CheckResult(item.name, passed, detail, item.sentence, skipped, seconds)
