"""Suite of objectives, around a tiny model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wishbone.core.contract.errors import WishboneError
from wishbone.core.contract.extensions.objective import Objective
from wishbone.core.contract.layout import IGNORE
from wishbone.core.testing.common import Check, Skipped, near, require
from wishbone.core.testing.toys import CODES, TEXT, toy_model

TOLERANCE = 1e-5
"""Largest relative difference of sums of a few dozen float32 numbers in another order."""
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def _build(cls: Any, config: Any) -> Objective:
    require(
        issubclass(cls, Objective),
        "the class is no wishbone.core.contract.extensions.objective.Objective",
    )
    try:
        return cls(config, toy_model(), {})
    except WishboneError as error:
        raise Skipped(f"cannot be made from these fields alone: {error.what}") from error


def _batch(padding: int = 0) -> Batch:
    """Two utterances of text and codes: table, ids, targets, mask, with masked positions behind."""
    random = torch.Generator().manual_seed(0)
    rows, length = 2, 9
    table = (torch.arange(length) < 3).long().repeat(rows, 1)  # [B, T], text first
    text = torch.randint(0, TEXT, (rows, length), generator=random)  # [B, T]
    codes = torch.randint(0, CODES, (rows, length), generator=random)  # [B, T]
    ids = torch.where(table == 1, text, codes)[..., None]  # [B, T, 1]
    after = torch.cat([codes[:, 1:], codes[:, :1]], 1)  # [B, T]
    targets = torch.where(table == 1, IGNORE, after)[..., None]  # [B, T, 1]
    mask = torch.ones(rows, length, dtype=torch.bool)  # [B, T]
    if padding:
        more = (rows, padding)
        table = torch.cat([table, torch.zeros(more, dtype=torch.long)], 1)  # [B, T + P]
        ids = torch.cat([ids, torch.zeros(*more, 1, dtype=torch.long)], 1)  # [B, T + P, 1]
        targets = torch.cat([targets, torch.full((*more, 1), IGNORE)], 1)  # [B, T + P, 1]
        mask = torch.cat([mask, torch.zeros(more, dtype=torch.bool)], 1)  # [B, T + P]
    return table, ids, targets, mask


def sum_and_count(cls: Any, config: Any, module: str | None) -> str:
    """``forward`` gives a finite sum and the number that ``count`` says before it."""
    objective = _build(cls, config)
    table, ids, targets, mask = _batch()
    total, count = objective(table, ids, targets, mask)
    require(total.ndim == 0 and count.ndim == 0, "sum and count are not numbers without a shape")
    require(bool(total.isfinite()), f"the sum is {total.item()}")
    before = objective.count(targets, mask)
    require(bool(count == before), f"forward divides by {count.item()}, count() says {before}")
    require(bool(count > 0), "nothing is counted in a batch with targets")
    return f"{total.item() / count.item():.3f} a position"


def padding(cls: Any, config: Any, module: str | None) -> str:
    """Masked positions behind an utterance change neither the sum nor the count."""
    objective = _build(cls, config)
    with torch.no_grad():
        total, count = objective(*_batch())
        padded, padded_count = objective(*_batch(padding=4))
    require(bool(count == padded_count), f"{count} positions become {padded_count}")
    worst = near(padded, total, TOLERANCE, "the sum with masked positions")
    return f"off by {worst:.1e}"


def no_targets(cls: Any, config: Any, module: str | None) -> str:
    """Without any target both are 0, and the sum still reaches every trained parameter."""
    objective = _build(cls, config)
    table, ids, targets, mask = _batch()
    total, count = objective(table, ids, torch.full_like(targets, IGNORE), mask)
    require(bool(count == 0) and bool(total == 0), f"sum {total.item()}, count {count.item()}")
    require(total.requires_grad, "the sum has no gradient: processes that share weights would hang")
    total.backward()
    parameters = [(n, p) for n, p in objective.named_parameters() if p.requires_grad]
    missed = [name for name, parameter in parameters if parameter.grad is None]
    require(not missed, f"it does not reach {', '.join(missed[:5])}")
    return f"{len(parameters)} parameters"


def learns(cls: Any, config: Any, module: str | None) -> str:
    """Following its gradient makes it smaller."""
    objective = _build(cls, config)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    require(bool(parameters), "nothing is trained")
    optimizer = torch.optim.SGD(parameters, lr=1e-2)
    values = []
    for _ in range(5):
        total, count = objective(*_batch())
        values.append((total / count).item())
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    require(values[-1] < values[0], f"it goes from {values[0]:.4f} to {values[-1]:.4f}")
    return f"{values[0]:.3f} to {values[-1]:.3f}"


CHECKS = (
    Check("sum_and_count", "A finite sum, and what to divide it by.", sum_and_count),
    Check("padding", "Masked positions change nothing.", padding),
    Check("no_targets", "Without targets both are 0 and reach every parameter.", no_targets),
    Check("learns", "Its gradient makes it smaller.", learns),
)
