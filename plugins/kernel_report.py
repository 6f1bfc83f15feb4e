"""Asks every folder of ``wishbone.kernels`` what runs on this machine."""

from __future__ import annotations

from importlib import import_module, resources


def kernel_report() -> list[tuple[str, bool, str]]:
    """One line per form of each kernel: (name, whether it runs here, why or why not).

    A kernel package answers through ``available() -> dict[form, reason]``; an empty reason means
    that the form runs here.
    """
    lines = []
    for folder in sorted(resources.files("wishbone.kernels").iterdir(), key=lambda f: f.name):
        if not folder.joinpath("__init__.py").is_file():
            continue
        try:
            answer = import_module(f"wishbone.kernels.{folder.name}").available()
        except Exception as error:
            lines.append((f"kernel {folder.name}", False, f"{type(error).__name__}: {error}"))
            continue
        for form, reason in answer.items():
            lines.append((f"kernel {folder.name}/{form}", not reason, reason or "runs here"))
    return lines


def engine_report() -> list[tuple[str, bool, str]]:
    """One line per engine that steps a built-in backbone, as ``kernel_report``."""
    import torch

    from wishbone.kernels.linear.build import compiler_missing, state
    from wishbone.plugins.rwkv7.engine import SOURCE as RWKV7
    from wishbone.plugins.transformer.engine import SOURCE as TRANSFORMER

    lines = []
    graph = "" if torch.cuda.is_available() else "CUDA graphs need a CUDA device"
    for name, source in (("rwkv7", RWKV7), ("transformer", TRANSFORMER)):
        reasons = {"native": state(name, source), "compiled": compiler_missing(), "graph": graph}
        for engine, reason in reasons.items():
            lines.append((f"{name}/{engine}", not reason, reason or "ready"))
    return lines
