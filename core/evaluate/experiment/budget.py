"""Sizes and work of each arm, before it speaks: a comparison of unequal budgets answers little."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from wishbone.core.evaluate.experiment.arms import Arm
from wishbone.core.evaluate.experiment.training_diff import provenance, stages
from wishbone.core.evaluate.result import Budget
from wishbone.core.system.system import System

SECONDS = (1, 10, 60)
"""Lengths of audio at which state and work are stated."""
TOLERANCE = 0.01
"""Share by which parameter counts may differ and still be called equal."""


def budget(arm: Arm, system: System) -> Budget:
    """Sizes, work and memory of one arm, from its formulas and its provenance."""
    model, codes = system.model, system.decoder.codes
    backbone, head = model.backbone, model.head
    tables = count(model) - count(backbone) - count(head)
    rows = codes.codebooks * (codes.size + system.layout.extra)
    record = provenance(arm)
    notes, every = record.get("notes") or {}, stages(record)
    hours = notes.get("hours")
    return Budget(
        backbone=arm.config["backbone"]["name"],
        engine=model.engine,
        parameters=count(model),
        parameters_backbone=count(backbone),
        parameters_head=count(head),
        parameters_tables=tables,
        parameters_decoder=count(system.decoder),
        dtype=str(model.dtype).removeprefix("torch."),
        # the output layer reads every row for every code frame; the decoder is the same for all
        flops_per_second={
            str(s): round(
                codes.rate
                * (backbone.flops_per_position(round(s * codes.rate)) + 2 * backbone.width * rows)
            )
            for s in SECONDS
        },
        state_bytes={
            str(s): backbone.state_bytes(round(s * codes.rate), dtype=model.dtype) for s in SECONDS
        },
        trained_parameters=notes.get("trained_parameters"),
        training_minutes=notes.get("minutes"),
        training_hours=hours,
        training_codes=round(hours * 3600 * codes.rate) if hours else None,
        training_steps=sum(every.steps) or None,
        training_stages=list(every.steps) or None,
        training_positions=_sum(every.positions),
        held_out_loss=notes.get("held_out_loss"),
    )


def unmatched(budgets: Mapping[str, Budget]) -> str:
    """One sentence naming the arms whose sizes differ too much, or ""."""
    if not budgets:
        return ""
    sizes = {key: budget.parameters for key, budget in budgets.items()}
    base_key, base = next(iter(sizes.items()))
    off = {key: size / base - 1 for key, size in sizes.items() if abs(size / base - 1) > TOLERANCE}
    if not off:
        return ""
    listed = ", ".join(f"{key} {share:+.1%}" for key, share in off.items())
    return f"Parameter counts differ from {base_key}'s by more than {TOLERANCE:.0%}: {listed}."


def count(module: nn.Module) -> int:
    """Parameters of a module, each counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def rows(budgets: Sequence[Budget]) -> list[tuple[str, list[str]]]:
    """The table for people: (title, one cell for each arm)."""

    def line(title: str, read: Callable[[Budget], str]) -> tuple[str, list[str]]:
        return title, [read(budget) for budget in budgets]

    result = [
        line("backbone", lambda b: b.backbone),
        # results from before engines were chosen are plain PyTorch's
        line("engine of the decoding steps", lambda b: b.engine or "eager"),
        line("parameters", lambda b: f"{b.parameters / 1e6:.3f} M"),
        line("... of the backbone", lambda b: f"{b.parameters_backbone / 1e6:.3f} M"),
        line("... of the decoder (shared)", lambda b: f"{b.parameters_decoder / 1e6:.3f} M"),
    ]
    for s in SECONDS:
        result.append(
            line(
                f"operations for a second of audio, {s} s in",
                lambda b, s=s: f"{b.flops_per_second[str(s)] / 1e6:,.0f} M",
            )
        )
    for s in SECONDS:
        result.append(line(f"state after {s} s", lambda b, s=s: size(b.state_bytes[str(s)])))
    return result + [
        line("numbers stored as", lambda b: b.dtype),
        line("parameters that were trained", lambda b: _thousands(b.trained_parameters)),
        line("minutes of training", _minutes),
        line("speech codes in the training data", lambda b: _thousands(b.training_codes)),
        line("training steps", _steps),
        line("positions seen, padding included", lambda b: _thousands(b.training_positions)),
        line("held-out loss", lambda b: _loss(b.held_out_loss)),
    ]


def size(count_: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count_ < 1024:
            return f"{count_:,.0f} {unit}" if unit == "B" else f"{count_:,.1f} {unit}"
        count_ /= 1024
    return f"{count_:,.2f} GiB"


def _loss(value: float | None) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "unknown"


def _thousands(value: int | None) -> str:
    return f"{value:,}" if isinstance(value, int) else "unknown"


def _minutes(budget: Budget) -> str:
    """Minutes of the last training, which is the only one whose time is recorded."""
    last = " (last stage)" if len(budget.training_stages or ()) > 1 else ""
    return f"{budget.training_minutes}{last}" if budget.training_minutes else "unknown"


def _steps(budget: Budget) -> str:
    """Steps of all trainings, and of each where there are several."""
    parts = budget.training_stages or []
    breakdown = f" ({' + '.join(f'{n:,}' for n in parts)})" if len(parts) > 1 else ""
    return _thousands(budget.training_steps) + breakdown


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None
