"""Seconds of forward and backward, and of a step, of stacks that take turns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from wishbone.core.config.blocks import STACK
from wishbone.core.config.schema import filled
from wishbone.core.contract.backbone import Backbone
from wishbone.core.contract.errors import CapabilityError
from wishbone.core.registry.loader import registry

BASELINE = "rwkv7"
STEPS = 60
"""Steps of one turn."""
STEP = 16
"""``ffn_width`` is a multiple of it."""


def lines(mixers: Sequence[str], width: int, layers: int, length: int, turns: int) -> Iterator[str]:
    """Yield the table, row by row, after all are measured."""
    torch.set_num_threads(1)
    baseline = registry().get("backbone", BASELINE)
    base = baseline(baseline.Config(width=width, layers=layers))
    budget = sum(p.numel() for p in base.parameters())
    models = {BASELINE: base} | {key: stack(key, width, layers, budget) for key in mixers}
    best = measure(models, width, length, turns)
    yield (
        f"torch {torch.__version__}, 1 thread, float32, width {width}, {layers} blocks, "
        f"{length} positions, eager"
    )
    yield f"{'':<20}{'parameters':>12}{'train':>8}{'step':>8}{'C++':>8}"
    for key, seconds in best.items():
        count = sum(p.numel() for p in models[key].parameters())
        train, step, _ = (one / of for one, of in zip(seconds, best[BASELINE], strict=True))
        fast = f"{seconds[1] / seconds[2]:.1f}x" if seconds[2] < float("inf") else ""
        yield f"{key:<20}{count:>12}{train:>8.2f}{step:>8.2f}{fast:>8}"
    train, step, _ = best[BASELINE]
    yield f"{BASELINE}: train {train:.3f} s, step {1000 * step:.2f} ms"


def stack(key: str, width: int, layers: int, budget: int) -> Backbone:
    """Build a stack of this mixer and SwiGLU, as near to ``budget`` parameters as it gets."""
    cls = registry().get("backbone", STACK)
    mixer = filled("mixer", *_configured(key))

    def config(inner: int) -> Any:
        return cls.Config(width=width, layers=layers, mixer=mixer, ffn_width=inner)

    least = cls.count_parameters(config(STEP))
    more = cls.count_parameters(config(2 * STEP)) - least
    return cls(config(STEP * max(1, 1 + round((budget - least) / more))))


def _configured(key: str) -> tuple[Any, Any]:
    cls = registry().get("mixer", key)
    return cls, cls.Config()


def measure(
    models: dict[str, Backbone], width: int, length: int, turns: int
) -> dict[str, list[float]]:
    """Least seconds of forward and backward, of a step, and of a step in C++ where there is one.

    One turn before does not count.
    """
    best = {key: [float("inf")] * 3 for key in models}
    x = torch.randn(1, length, width, generator=torch.Generator().manual_seed(0))
    for turn in range(turns + 1):
        for key, model in models.items():
            seconds = _train(model, x), _step(model, x, "eager"), _step(model, x, "native")
            if turn:
                best[key] = [min(pair) for pair in zip(best[key], seconds, strict=True)]
    return best


def _train(model: Backbone, x: torch.Tensor) -> float:
    model.train()
    begin = time.process_time()
    y, _ = model(x)  # [B, T, D]
    y.square().mean().backward()
    spent = time.process_time() - begin
    model.zero_grad(set_to_none=True)
    return spent


@torch.no_grad()
def _step(model: Backbone, x: torch.Tensor, engine: str) -> float:
    model.eval()
    try:
        model.accelerate(engine)
    except CapabilityError:
        return float("inf")
    state = model.init_state(1)
    begin = time.process_time()
    for position in range(STEPS):
        model.step_(x[:, position % x.shape[1], None], state)
    return (time.process_time() - begin) / STEPS
