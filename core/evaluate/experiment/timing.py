"""Fair times: who speaks when, how often, and whether the machine was free enough to say anything.

Whatever a process remembers of a text (a dictionary of spoken words, for one) is paid for by who
speaks it first. So every system reads each text once before anybody is timed, the systems take
turns in an order in which each is first equally often and follows each other one equally often,
and every item is timed several times, of which the median counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from statistics import median

from wishbone.core.evaluate.experiment.generate import Generation
from wishbone.core.evaluate.experiment.items import UNMEASURED, Item, Items
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.result import Prompt
from wishbone.core.evaluate.result_parts import Timing
from wishbone.core.evaluate.statistics.turns import williams

LOAD_LIMIT = 1.0
"""Load for each core, this run's own thread included, above which no verdict on speed is given."""
WAITED_LIMIT = 0.2
"""Share of an item's time without work of this process, on a CPU, above which none is given."""
CHEAP = 20.0
"""Seconds of processor time from which an item is timed once: so long, one time is enough."""


def schedule(plan: Plan) -> Iterator[tuple[Prompt, int, list[list[str]]]]:
    """Prompt, repeat, and the checkpoints in the order of each round.

    Rounds go on through the orders of ``williams``, from prompt to prompt.
    """
    keys = [checkpoint.key for checkpoint in plan.checkpoints]
    orders = cycle([[keys[place] for place in row] for row in williams(len(keys))])
    for repeat in range(plan.seeds):
        for prompt in plan.prompts:
            yield prompt, repeat, [next(orders) for _ in range(max(1, plan.rounds))]


def load() -> float | None:
    """The machine's load of the last minute; None where it has none to tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def together(rounds: Sequence[Generation]) -> Generation:
    """The first round, with the median of every time over all rounds that were spoken to an end."""
    first = rounds[0]
    ended = [one for one in rounds if one.rtf is not None and not one.error]
    if first.rtf is None or not ended:
        return replace(first, rounds=len(rounds))

    def middle(name: str) -> float | None:
        """The median; None of what was not noted, such as a server's processor time."""
        noted = [getattr(one, name) for one in ended if getattr(one, name) is not None]
        return median(noted) if noted else None

    computing, processor = middle("computing") or 0.0, middle("processor")
    return replace(
        first,
        computing=round(computing, 4),
        processor=None if processor is None else round(processor, 4),
        rtf=computing / first.seconds,
        first_audio=middle("first_audio"),
        token_rate=None if first.token_rate is None else first.codes / computing,
        stall=middle("stall"),
        rounds=len(ended),
    )


def summary(plan: Plan, items: Items, on_cpu: bool) -> Timing | None:
    """How the times of a run were taken; None where its items do not say."""
    spoken = [
        items.get(checkpoint.key, prompt.key, repeat)
        for checkpoint in plan.checkpoints
        for prompt in plan.prompts
        for repeat in range(plan.seeds)
    ]
    noted = ("processor", "rtf")
    timed = [item.row for item in spoken if any(item.row.get(k) is not None for k in noted)]
    if not timed:
        return None
    loads = [row["load"] for row in timed if row.get("load") is not None]
    alone = [row for row in timed if row.get("processor") is not None]
    waits = [max(0.0, 1 - row["processor"] / max(row["made"], 1e-9)) for row in alone]
    waited = median(waits) if waits else 0.0
    usual = median(loads) if loads else None
    return Timing(
        rounds=round(median(row.get("rounds") or 1 for row in timed)),
        load=usual,
        load_most=max(loads, default=None),
        cores=cores(),
        waited=round(waited, 3),
        unmeasured=sum(item.failure == UNMEASURED for item in spoken),
        busy=busy(usual, cores(), waited if on_cpu else 0.0),
    )


def busy(usual: float | None, count: int, waited: float) -> str:
    """Say why a machine was too busy to compare speeds on, or ""."""
    if usual is not None and usual > LOAD_LIMIT * count:
        return f"the load was {usual:.1f} on {count} cores"
    if waited > WAITED_LIMIT:
        return f"items waited {100 * waited:.0f} % of their time for the processor"
    return ""


def unspoken(item: Item, seed: int) -> bool:
    """True for an item that is to be spoken: another seed's, or one that was not measured."""
    return item.seed != seed or item.failure == UNMEASURED
