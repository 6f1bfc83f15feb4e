"""Lists the kernels and engines that run on this machine, for ``wishbone doctor``."""

from __future__ import annotations

from importlib import import_module, resources

import torch

from wishbone.kernels.linear.build import compiler, obstacle, state
from wishbone.kernels.linear.native import SOURCE as LINEAR
from wishbone.plugins.rwkv7.engines.native import SOURCE as RWKV7
from wishbone.plugins.stack.engines.native import SOURCE as STACK
from wishbone.plugins.transformer.engines.native import SOURCE as TRANSFORMER

_STEPS = (
    ("linear", LINEAR), ("rwkv7", RWKV7), ("stack", STACK), ("transformer", TRANSFORMER),
)  # fmt: skip


def kernel_report() -> list[tuple[str, bool, str]]:
    """Return a line per form of each kernel: (name, true where it runs here, why or why not).

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
    """Return a line per engine that steps a built-in backbone, as ``kernel_report``.

    The C++ steps are fine where they are built or can be, by the first use.
    """
    lines = []
    for name, source in _STEPS:
        missing = state(name, source)
        reason = obstacle(name, source) if missing else ""
        how = f"{missing}, with {compiler()}" if missing else "built"
        lines.append((f"C++ steps/{name}", not reason, reason or how))
    graph = "" if torch.cuda.is_available() else "CUDA graphs need a CUDA device"
    for name in ("rwkv7", "stack", "transformer"):
        lines.append((f"{name}/graph", not graph, graph or "ready"))
    return lines
