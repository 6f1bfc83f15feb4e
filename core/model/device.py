"""Devices by name, checked before anything is loaded onto one."""

from __future__ import annotations

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
