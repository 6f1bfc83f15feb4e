"""Weights shared out among processes: FSDP2 (``torch.distributed.fsdp.fully_shard``).

Every process keeps the same share of the rows of each parameter, of its gradient, of AdamW's memory
and of the average. A layer's parameters are gathered while it computes, forward and backward, and
its gradients are summed in the process that holds the rows. The layers are the modules that
``Backbone.shardable`` returns; head, tables and the remaining modules of the backbone are one more
unit, which stays gathered from the beginning of a step to its end.

A tensor is a share where it is a ``DTensor``. The functions take plain tensors, too, and then do
what one would do without sharing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.contract.errors import PluginBroken
from wishbone.core.contract.extensions.objective import Objective
from wishbone.core.train.distributed.processes import ProcessGroup


def shard_(objective: Objective, group: ProcessGroup) -> None:
    """Share the parameters out among all processes, in place: calling ``objective`` gathers them.

    The parameters must be the same in every process and may be on the CPU; shares are made on the
    processes' own devices, one layer after another. Gradients become sums, not means.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    backbone = objective.model.backbone
    layers = objective.shardable()
    require_disjoint(backbone, layers)
    mesh = init_device_mesh(group.device.type, (group.size,))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(objective, mesh=mesh, reshard_after_forward=False)
    for unit in _units(objective):
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)


@contextmanager
def gathered(root: nn.Module) -> Iterator[None]:
    """Meanwhile every process has all parameters, and may call ``root`` as often as it likes.

    For measuring: processes have batches of other numbers and lengths there. Without gradient.
    """
    units = _units(root)
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            # parameters that stayed gathered would be taken for the weights of the next step
            unit.reshard()
            unit.set_reshard_after_forward(unit is not root, recurse=False)


def is_share(tensor: Tensor) -> bool:
    """True where other processes have other rows of it."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """The rows of this process, in the same memory; all of a plain tensor."""
    return tensor.detach().to_local() if is_share(tensor) else tensor.detach()


def local_range(share: Any) -> tuple[int, int]:
    """First row of this process, and the one after its last, as ``torch.chunk`` cuts axis 0."""
    count, rows = share.shape[0], local(share).shape[0]
    size = -(-count // share.device_mesh.size())
    begin = min(count, share.device_mesh.get_local_rank() * size)
    assert rows == min(count, begin + size) - begin
    return begin, begin + rows


def share_like(rows: Tensor, share: Any) -> Tensor:
    """``rows`` as this process's share of a tensor shared out as ``share`` is."""
    if not is_share(share):
        return rows
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        rows.to(local(share).device),
        share.device_mesh,
        share.placements,
        run_check=False,
        shape=share.shape,
        stride=share.stride(),
    )


def full_state_dict(model: nn.Module, keep: bool) -> dict[str, Tensor]:
    """The model's state on the CPU, put together; all processes call it, one at least keeps it.

    Returns nothing where ``keep`` is false. One tensor at a time is whole on a GPU.
    """
    tensors = {}
    for name, tensor in model.state_dict().items():
        full: Tensor = tensor.detach()
        if is_share(full):
            full = full.full_tensor()
        if keep:
            tensors[name] = full.cpu().clone()
    return tensors


@torch.no_grad()
def clip_gradients_(parameters: Iterable[nn.Parameter], limit: float, group: ProcessGroup) -> float:
    """Make the gradient no longer than ``limit`` (0: any) -> its length over all processes."""
    parameters = list(parameters)
    if not any(is_share(parameter) for parameter in parameters):
        return float(nn.utils.clip_grad_norm_(parameters, limit or math.inf))
    gradients = [local(p.grad) for p in parameters if p.grad is not None]
    square = torch.stack(torch._foreach_norm(gradients)).double().square().sum()  # []
    norm = float(group.sum_(square).sqrt())
    if limit and norm > limit:
        torch._foreach_mul_(gradients, limit / (norm + 1e-6))
    return norm


def _units(root: nn.Module) -> list[Any]:
    """Modules that gather their own parameters; none where nothing is shared out."""
    return [module for module in root.modules() if hasattr(module, "unshard")]


def require_disjoint(backbone: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Raise ``PluginBroken`` unless the layers are modules of ``backbone``, none inside another."""
    inside = {id(module) for module in backbone.modules()}
    covered: set[int] = set()
    for layer in layers:
        modules = {id(module) for module in layer.modules()}
        if not modules <= inside or modules & covered:
            raise PluginBroken(
                f"'shardable' of {type(backbone).__name__} names a {type(layer).__name__} that is"
                " no part of it, or lies in another that it names.",
                "the backbone's class",
                "Return modules of the backbone, none inside another; or train with shard=none.",
            )
        covered |= modules
