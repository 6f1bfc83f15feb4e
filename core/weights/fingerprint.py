"""Identity of weights: short hashes of modules, cached as long as no tensor is changed."""

from __future__ import annotations

import hashlib
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_HASHES: WeakKeyDictionary[nn.Module, tuple[list[Any], str]] = WeakKeyDictionary()


def fingerprint(module: nn.Module) -> str:
    """A short hash of a module's parameters and buffers: names, types, shapes, numbers.

    Two gigabytes take seconds, so it is cached until a tensor is changed or replaced.
    """
    state = sorted(module.state_dict().items())
    if any(tensor.is_inference() for _, tensor in state):
        return _hash(state)
    versions = [(name, t.data_ptr(), t.dtype, t._version) for name, t in state]
    cached = _HASHES.get(module)
    if cached is None or cached[0] != versions:
        cached = _HASHES[module] = (versions, _hash(state))
    return cached[1]


def _hash(state: list[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in state:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)  # [bytes]
        digest.update(data.numpy().data)
    return digest.hexdigest()[:16]
