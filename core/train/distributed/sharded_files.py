"""Tensors of a checkpoint in files, whole or each process's share; never pickle.

::

    model.safetensors                        one process wrote all of it
    model-00000-of-00002.safetensors         two did: the first process's rows,
    model-00001-of-00002.safetensors         and the second's

The rows of a tensor stand in the files one below the other, in the order of the files' numbers; a
tensor that is not shared out is in the first file alone. So any number of processes can go on from
a checkpoint of any other number: each reads the rows that it holds now.

``torch.distributed.checkpoint`` would shard as well, but its ``.metadata`` is a pickle, which runs
code when it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.train.distributed.fsdp import is_share, local, local_range, share_like
from wishbone.core.train.distributed.processes import ProcessGroup
from wishbone.core.weights.tensor_files import read_tensors, write_tensors

_NUMBERED = re.compile(r".+-(\d+)-of-(\d+)\.safetensors")


def write_part(folder: Path, part: str, tensors: Mapping[str, Tensor], group: ProcessGroup) -> None:
    """Write one part of a checkpoint; all processes call it. Shares go to files of their own."""
    if not any(map(is_share, tensors.values())):
        if group.leads:
            write_tensors(folder / f"{part}.safetensors", tensors)
        return
    rows = {name: local(t) for name, t in tensors.items() if group.leads or is_share(t)}
    write_tensors(folder / f"{part}-{group.rank:05d}-of-{group.size:05d}.safetensors", rows)


def write_rows(folder: Path, part: str, tensors: Mapping[str, Tensor], group: ProcessGroup) -> None:
    """Write tensors of which every process has rows of its own, one below the other as in shares.

    All processes call it; a tensor in it must say which rows they are.
    """
    name = f"{part}-{group.rank:05d}-of-{group.size:05d}" if group.size > 1 else part
    write_tensors(folder / f"{name}.safetensors", tensors)


def read_rows(folder: Path, part: str) -> list[dict[str, Tensor]]:
    """The tensors that each process wrote with ``write_rows``. Raises ``CheckpointError``."""
    return [read_tensors(path) for path in _files(folder, part)]


def read_part(
    folder: Path, part: str, like: Callable[[str], Tensor | None] = lambda _: None
) -> dict[str, Tensor]:
    """Named tensors of one part, each with the rows that this process holds.

    ``like(name)`` is the tensor of the model that will take the values, or None; where it is a
    share of the same shape, its rows alone are read, else all. Raises ``CheckpointError``.
    """
    from safetensors import SafetensorError, safe_open

    paths = _files(folder, part)
    with ExitStack() as stack:
        try:
            files = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
            names = dict.fromkeys(name for file in files for name in file.keys())
            return {name: _read(files, name, like(name)) for name in names}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"The part '{part}' of the checkpoint cannot be read: {error}.",
                str(folder),
                "Remove that folder; the run goes on from the one before it.",
            ) from error


def _read(files: list[Any], name: str, like: Tensor | None) -> Tensor:
    """One tensor from the files that have rows of it."""
    files = [file for file in files if name in file.keys()]
    slices = [file.get_slice(name) for file in files]
    shapes = [rows.get_shape() for rows in slices]
    if not shapes[0]:
        return files[0].get_tensor(name)
    shape = [sum(rows for rows, *_ in shapes), *shapes[0][1:]]
    if like is None or not is_share(like) or list(like.shape) != shape:
        return torch.cat([file.get_tensor(name) for file in files])
    begin, end = local_range(like)
    parts, first = [local(like).new_empty(0, *shape[1:])], 0
    for piece, (rows, *_) in zip(slices, shapes, strict=True):
        low, high = max(begin, first) - first, min(end, first + rows) - first
        if low < high:
            parts.append(piece[low:high].to(parts[0].device))
        first += rows
    return share_like(torch.cat(parts), like)


def _files(folder: Path, part: str) -> list[Path]:
    """The one file of a part, or all of its shares in order."""
    path = folder / f"{part}.safetensors"
    if path.is_file():
        return [path]
    paths = sorted(folder.glob(f"{part}-*-of-*.safetensors"))
    numbers = [tuple(map(int, m.groups())) for p in paths if (m := _NUMBERED.fullmatch(p.name))]
    if not paths or numbers != [(rank, len(paths)) for rank in range(len(paths))]:
        raise CheckpointError(
            f"The part '{part}' of the checkpoint is not all here: {len(paths)} files of its shares"
            f"{f', of {numbers[0][1]}' if numbers else ''}.",
            str(folder),
            "Bring the files of all machines together, or remove that folder.",
        )
    return paths
