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
from wishbone.core.system.spec import parse, read

BASELINE = "rwkv7"
STEPS = 60
"""Steps of one turn."""
STEP = 16
"""``ffn_width`` is a multiple of it."""
SECONDS = (25, 1500)
"""Positions of one and of sixty seconds, after which the state is counted."""


def lines(
    mixers: Sequence[str], ffn: str, width: int, layers: int, length: int, turns: int
) -> Iterator[str]:
    """Yield the table, row by row, after all are measured."""
    torch.set_num_threads(1)
    baseline = registry().get("backbone", BASELINE)
    base = baseline(baseline.Config(width=width, layers=layers))
    budget = sum(p.numel() for p in base.parameters())
    first = f"backbone {BASELINE}"
    models = {first: base}
    for key in mixers:
        known = key in registry().names("mixer")
        models[key] = stack(key, ffn, width, layers, budget) if known else _backbone_of(key)
    best = measure(models, length, turns)
    yield (
        f"torch {torch.__version__}, 1 thread, float32, width {width}, {layers} blocks, "
        f"{length} positions, eager"
    )
    states = "".join(f"{f'state, {count}':>14}" for count in SECONDS)
    yield f"{'':<22}{'parameters':>12}{'train':>8}{'step':>8}{'C++':>8}{states}"
    for key, seconds in best.items():
        model = models[key]
        count = sum(p.numel() for p in model.parameters())
        train, step, _ = (one / of for one, of in zip(seconds, best[first], strict=True))
        fast = f"{seconds[1] / seconds[2]:.1f}x" if seconds[2] < float("inf") else ""
        states = "".join(f"{model.state_bytes(count):>14}" for count in SECONDS)
        yield f"{key:<22}{count:>12}{train:>8.2f}{step:>8.2f}{fast:>8}{states}"
    train, step, _ = best[first]
    yield f"{first}: train {train:.3f} s, step {1000 * step:.2f} ms"


def stack(key: str, ffn: str, width: int, layers: int, budget: int) -> Backbone:
    """Build a stack of this mixer and this ffn, as near to ``budget`` parameters as it gets."""
    cls = registry().get("backbone", STACK)
    halves = {kind: _filled(kind, name) for kind, name in (("mixer", key), ("ffn", ffn))}

    def config(inner: int) -> Any:
        return cls.Config(width=width, layers=layers, ffn_width=inner, **halves)

    least = cls.count_parameters(config(STEP))
    more = cls.count_parameters(config(2 * STEP)) - least
    # a part without an inner width has the size it has
    return cls(config(STEP * max(1, 1 + round((budget - least) / more)) if more else 0))


def _filled(kind: str, key: str) -> Any:
    cls = registry().get(kind, key)
    return filled(kind, cls, cls.Config())


def _backbone_of(system: str) -> Backbone:
    return parse(read(system)).slots["backbone"].build()


def measure(models: dict[str, Backbone], length: int, turns: int) -> dict[str, list[float]]:
    """Least seconds of forward and backward, of a step, and of a step in C++ where there is one.

    One turn before does not count.
    """
    best = {key: [float("inf")] * 3 for key in models}
    for turn in range(turns + 1):
        for key, model in models.items():
            random = torch.Generator().manual_seed(0)
            x = torch.randn(1, length, model.width, generator=random)  # [1, T, D]
            seconds = _train(model, x), _step(model, x, "eager"), _step(model, x, "native")
            if turn:
                best[key] = [min(pair) for pair in zip(best[key], seconds, strict=True)]
    return best


def _train(model: Backbone, x: torch.Tensor) -> float:
    model.train()
    beside = _beside(model, x.shape[1])
    begin = time.process_time()
    y, _ = model(x, **beside)  # [B, T, D]
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
    state, beside = model.init_state(1), _beside(model, 1)
    begin = time.process_time()
    for position in range(STEPS):
        model.step_(x[:, position % x.shape[1], None], state, **beside)
    return (time.process_time() - begin) / STEPS


def _beside(model: Backbone, length: int) -> dict[str, Any]:
    """Return what positions read where the model asks: a quarter is text, in turns of 16."""
    if not model.needs_reading:
        return {}
    place = torch.arange(length)[None]  # [1, T]
    return {"reading": ((place % 64 < 16).long(), (7 * place % 101)[..., None])}
