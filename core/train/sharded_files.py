"""Tensors of a checkpoint in files, whole or each process's share; never pickle.

::

    model.safetensors                        one process wrote all of it
    model-00000-of-00002.safetensors         two did: the first process's rows,
    model-00001-of-00002.safetensors         and the second's

A tensor is what the files hold of it, one below the other in the order of their numbers; what is
not shared out is in the first alone. So any number of processes can go on from what any other
number wrote: each reads the rows that are its own now.

``torch.distributed.checkpoint`` would shard as well, but its ``.metadata`` is a pickle, which runs
code when it is loaded; and what it holds beyond names, shapes and rows is not needed here.
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
from wishbone.core.train.data_shards import is_share, local, rows_here, share_like
from wishbone.core.train.processes import Processes
from wishbone.core.weights.files import read_tensors, write_tensors

_NUMBERED = re.compile(r".+-(\d+)-of-(\d+)\.safetensors")


def write_part(folder: Path, part: str, tensors: Mapping[str, Tensor], here: Processes) -> None:
    """Write one part of a checkpoint; all processes call it. Shares go to files of their own."""
    if not any(map(is_share, tensors.values())):
        if here.leads:
            write_tensors(folder / f"{part}.safetensors", tensors)
        return
    own = {name: local(t) for name, t in tensors.items() if here.leads or is_share(t)}
    write_tensors(folder / f"{part}-{here.rank:05d}-of-{here.count:05d}.safetensors", own)


def write_rows(folder: Path, part: str, tensors: Mapping[str, Tensor], here: Processes) -> None:
    """Write tensors of which every process has rows of its own, one below the other as in shares.

    All processes call it; a tensor in it must say which rows they are.
    """
    name = f"{part}-{here.rank:05d}-of-{here.count:05d}" if here.count > 1 else part
    write_tensors(folder / f"{name}.safetensors", tensors)


def read_rows(folder: Path, part: str) -> list[dict[str, Tensor]]:
    """What every process wrote with ``write_rows``. Raises ``CheckpointError``."""
    return [read_tensors(path) for path in _files(folder, part)]


def read_part(
    folder: Path, part: str, like: Callable[[str], Tensor | None] = lambda _: None
) -> dict[str, Tensor]:
    """Named tensors of one part, as many rows as the process has of what ``like`` names.

    ``like(name)`` is the tensor that this one is for, if there is one; a plain tensor, and one of
    another shape, is read whole. Raises ``CheckpointError``.
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
    files = [file for file in files if name in file.keys()]
    slices = [file.get_slice(name) for file in files]
    shapes = [piece.get_shape() for piece in slices]
    if not shapes[0]:
        return files[0].get_tensor(name)
    shape = [sum(rows for rows, *_ in shapes), *shapes[0][1:]]
    if like is None or not is_share(like) or list(like.shape) != shape:
        return torch.cat([file.get_tensor(name) for file in files])
    begin, end = rows_here(like)
    found, first = [local(like).new_empty(0, *shape[1:])], 0
    for piece, (rows, *_) in zip(slices, shapes, strict=True):
        low, high = max(begin, first) - first, min(end, first + rows) - first
        if low < high:
            found.append(piece[low:high].to(found[0].device))
        first += rows
    return share_like(torch.cat(found), like)


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
