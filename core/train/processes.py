"""One process or many: torchrun's environment, and what processes tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist


@dataclass(frozen=True)
class Processes:
    """This process among all."""

    rank: int
    count: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this one writes files and prints."""
        return self.rank == 0

    def sum_(self, value: Tensor) -> Tensor:
        """The sum of ``value`` over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def sum_gradients_(self, model: nn.Module) -> None:
        """Every gradient becomes its sum over all processes, in one message."""
        if self.count == 1:
            return
        parameters = [p for p in model.parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.flatten() for p in parameters])
        dist.all_reduce(flat)
        begin = 0
        for parameter in parameters:
            end = begin + parameter.numel()
            parameter.grad.copy_(flat[begin:end].view_as(parameter))
            begin = end

    def agree(self, flag: bool) -> bool:
        """What the leading process says, so that all stop in the same step."""
        return bool(self.told(int(flag)))

    def told(self, number: int) -> int:
        """The leading process's ``number``."""
        if self.count == 1:
            return number
        told = torch.tensor([number], device=self.device)
        dist.broadcast(told, 0)
        return int(told.item())

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def processes(device: str = "auto") -> Iterator[Processes]:
    """Join the others if torchrun started this process, and leave them at the end."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    if count > 1:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        here = Processes(rank, count, torch.device(device))
        yield here
        # nobody leaves while another still writes: gloo may abort whoever is left behind
        here.wait()
    finally:
        if count > 1:
            dist.destroy_process_group()
