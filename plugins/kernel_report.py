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
