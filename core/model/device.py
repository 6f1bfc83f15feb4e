"""Devices by name, checked before anything is loaded onto one, and what they are fast at."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from wishbone.core.contract.errors import UsageError


def find_device(name: str | torch.device) -> torch.device:
    """Return the device of that name; "auto" is the first GPU, or else the CPU.

    Raises ``UsageError`` for a name that means nothing, and for a device this machine lacks.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):
        raise UsageError(f"There is no kind of device '{name}'.", "device", _advice()) from None
    if device.type not in ("cpu", "meta") and (device.index or 0) >= _count(device.type):
        raise UsageError(f"This machine has no device '{name}'.", "device", _advice())
    return device


def multiplies_bfloat16_faster(device: torch.device) -> bool:
    """Tell whether a product of matrices takes less time in bfloat16 than in float32 here.

    A GPU is asked; a CPU is timed for some milliseconds, because those without instructions for
    bfloat16 compute it correctly too, at a twentieth of the speed.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return True
    fastest = dict[torch.dtype, float]()
    for kind in (torch.float32, torch.bfloat16):
        x, w = torch.ones(512, 256, dtype=kind), torch.ones(256, 256, dtype=kind)  # [T, D], [D, D]
        seconds = []
        for _ in range(5):  # the first allocates, and others may be interrupted
            begun = time.perf_counter()
            x @ w  # [T, D]
            seconds.append(time.perf_counter() - begun)
        fastest[kind] = min(seconds)
    return fastest[torch.bfloat16] < fastest[torch.float32]


def _count(kind: str) -> int:
    """Number of devices of a kind that PyTorch can use here."""
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    counts = {"cuda": torch.cuda.device_count, "xpu": torch.xpu.device_count}
    return counts[kind]() if kind in counts else 0


def _advice() -> str:
    names = ["cpu"] + [f"cuda:{index}" for index in range(_count("cuda"))]
    names += ["mps"] if _count("mps") else []
    return f"Devices here: {', '.join(names)}. 'wishbone doctor' says more."


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch use so many threads in the block.

    Sums of floats are cut by the number of threads, so equal results need an equal number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
