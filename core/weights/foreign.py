"""Other projects' weights: whether they fit a model, and PyTorch's own format out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from wishbone.core.contract.atomic import replacing
from wishbone.core.contract.errors import CheckpointError


def write_pickle(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as PyTorch does; names that share a tensor still do.

    Of a storage only the part that a tensor shows is written.
    """
    copies: dict[tuple[int, int, tuple[int, ...]], Tensor] = {}
    output = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), int(tensor.storage_offset()), tuple(tensor.shape))
        output[name] = copies.setdefault(key, tensor.detach().cpu().clone().contiguous())
    with replacing(path) as temporary:
        torch.save(output, temporary)


def check(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise ``CheckpointError`` unless names and shapes are those of ``module``; it may be meta."""
    state = module.state_dict()
    problems = [
        f"{len(names)} tensors {label}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
        for label, names in (
            ("are missing", sorted(state.keys() - tensors.keys())),
            ("mean nothing here", sorted(tensors.keys() - state.keys())),
            (
                "have another shape than the rest of the model",
                [
                    f"{name} {list(tensors[name].shape)}, not {list(row.shape)}"
                    for name, row in state.items()
                    if name in tensors and tensors[name].shape != row.shape
                ],
            ),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"The weights do not make one {type(module).__name__}: {'; '.join(problems)}.",
            where,
            "Download the file again, whole, or make it again.",
        )
