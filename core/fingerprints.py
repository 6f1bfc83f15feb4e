"""Which weights these are: short hashes of modules, kept as long as nothing is changed."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from wishbone.core.config import System

_HASHES: WeakKeyDictionary[nn.Module, tuple[list[Any], str]] = WeakKeyDictionary()


def fingerprint(module: nn.Module) -> str:
    """A short hash of a module's parameters and buffers: names, types, shapes, numbers.

    Two gigabytes take seconds, so it is kept until a tensor is changed or replaced.
    """
    state = sorted(module.state_dict().items())
    if any(tensor.is_inference() for _, tensor in state):
        return _hash(state)
    seen = [(name, t.data_ptr(), t.dtype, t._version) for name, t in state]
    kept = _HASHES.get(module)
    if kept is None or kept[0] != seen:
        kept = _HASHES[module] = (seen, _hash(state))
    return kept[1]


def _hash(state: list[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in state:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def tokenizer_key(system: System) -> str:
    """Registry key of the system's tokenizer."""
    return str((system.config.get("tokenizer") or {}).get("name", ""))


def model_key(system: System) -> str:
    """Fingerprint of the model and of what decides how its state comes about.

    Two systems may share weights and read the same prompt in another order.
    """
    said = {
        slot: {k: v for k, v in (system.config.get(slot) or {}).items() if k != "weights"}
        for slot in ("layout", "backbone")
    }
    text = fingerprint(system.model) + json.dumps(said, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
