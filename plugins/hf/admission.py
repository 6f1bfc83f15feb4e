"""Families that nobody has tried: admitted if a tiny copy keeps the contract, and remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import ConfigError, UnknownName, did_you_mean
from wishbone.core.testing import check_class
from wishbone.kernels.linear.build import cache_folder
from wishbone.plugins.hf.families import FAMILIES, REFUSED
from wishbone.plugins.hf.library import VERSION, families

_TRIED: dict[str, str] = {}
"""Family -> "" where it may be used in this process, else the reason."""


def admit(family: str, cls: type[Any], tiny: Callable[[str], Any]) -> None:
    """Raise ``ConfigError`` unless models of ``family`` keep the contract of a backbone.

    One that is not listed is tried: ``cls`` of the configuration ``tiny(family)`` goes through the
    backbone suite, once for a version of transformers, which takes some seconds. Raises
    ``UnknownName`` for a family that transformers does not have.
    """
    if family in REFUSED:
        _refuse(family, REFUSED[family])
    if family in FAMILIES or _TRIED.get(family) == "":
        return
    names = families()
    if family not in names:
        raise UnknownName(
            f"transformers {VERSION} has no family '{family}'.",
            "model of the backbone 'hf'",
            f"{did_you_mean(family, names)} Write the model_type of its config.json.".strip(),
        )
    reasons = read_answers()
    if family not in reasons:
        _TRIED[family] = ""  # the copy that is tried asks, too
        try:
            reasons[family] = try_family(family, cls, tiny)
        finally:
            del _TRIED[family]
        _write_answers(reasons)
    if reasons[family]:
        _refuse(family, f"a tiny copy of it broke the contract: {reasons[family]}")
    _TRIED[family] = ""


def try_family(family: str, cls: type[Any], tiny: Callable[[str], Any]) -> str:
    """Run the suite on a tiny copy -> the first fault, "" for none."""
    with torch.device("cpu"), torch.inference_mode(False), torch.enable_grad():
        try:
            results = check_class("backbone", cls, tiny(family))
        # a family may refuse small sizes in any way
        except Exception as error:
            return f"it cannot be built small ({str(error)[:200]})"
    return next((f"{r.name}: {r.detail[:200]}" for r in results if not r.passed), "")


def answers_file() -> Path:
    """Return the file that remembers what was tried with this version of transformers."""
    return cache_folder().parent / f"hf-families-{VERSION}.json"


def read_answers() -> dict[str, str]:
    """Return family -> "" or the reason against it; {} where nothing is remembered."""
    try:
        values = json.loads(answers_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in values.items()} if isinstance(values, dict) else {}


def _write_answers(reasons: dict[str, str]) -> None:
    path = answers_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(reasons, indent=1, sort_keys=True))
    except OSError:
        return  # a cache that cannot be written costs seconds the next time


def _refuse(family: str, reason: str) -> None:
    raise ConfigError(
        f"'{family}' of transformers cannot be a backbone: {reason}.",
        "model of the backbone 'hf'",
        f"Take one of {', '.join(FAMILIES)}.",
    )
