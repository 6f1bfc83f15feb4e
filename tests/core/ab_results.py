"""Results of an A/B with stand-ins for everything that is measured of real systems."""

from wishbone.core.evaluate import ab
from wishbone.core.evaluate.result import (
    SCHEMA,
    Budget,
    Costs,
    LengthCost,
    Machine,
    Memory,
    Provenance,
    Result,
)
from wishbone.core.evaluate.statistics import compare, counts, metrics


def costs(keys):
    """Speed, memory and sizes, the same for every arm."""
    length = [
        LengthCost(seconds=s, positions=1, step_ms=1 + s, state_bytes=1000 * s, held_bytes=1)
        for s in (0.0, 10.0)
    ]
    sizes = {str(s): 10 for s in (1, 10, 60)}
    budget = Budget(
        backbone="x", parameters=10, parameters_backbone=5, parameters_head=1,
        parameters_tables=1, parameters_decoder=3, flops_per_second=sizes, state_bytes=sizes,
        dtype="float32", trained_parameters=None, training_minutes=None, training_hours=None,
        training_codes=None, training_steps=4, training_positions=None, held_out_loss=None,
    )  # fmt: skip
    memory = Memory(imported=1_000_000, loaded=2_000_000, peak=5_000_000)
    return Costs(
        length=dict.fromkeys(keys, length), memory=dict.fromkeys(keys, memory),
        budget=dict.fromkeys(keys, budget), unmatched="", sample_rate={},
        machine=Machine(processor="p", cores=2, threads=1, load=0.1, system="s", gpu=""),
    )  # fmt: skip


def result(plan, items, losses=None):
    """The result of a plan whose items are judged; ``losses`` are those of held-out speech."""
    losses = losses or {}
    return Result(
        schema=SCHEMA, name="test", about="", quick=False, factors=plan.factors, varied=[],
        confounded=[], arms=[ab.arm_facts(arm) for arm in plan.arms], differences=[],
        prompts=plan.prompts, available=plan.available or None, seeds=1, signatures={},
        metrics={key: metrics.facts(m) for key, m in (plan.listening | plan.metrics).items()},
        costs=costs([arm.key for arm in plan.arms]),
        analysis=compare.analyse(items, plan, losses), raw=counts.raw(items, plan, losses),
        reference={}, reference_folder="",
        provenance=Provenance(
            command=["wishbone", "ab"], began="now", ended="2026-11-21T00:00:00Z", python="3",
            distributions={"torch": "2"}, git="", seed=1, weights={}, trained={},
        ),
    )  # fmt: skip
