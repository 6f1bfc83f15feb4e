"""Fair times: who speaks when, how often, and whether the machine was free enough to say anything.

Whatever a process remembers of a text (a dictionary of spoken words, for one) is paid for by who
speaks it first. So every system reads each text once before anybody is timed, the systems take
turns in an order in which each is first equally often and follows each other one equally often,
and every item is timed several times, of which the median counts.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from statistics import median
from time import perf_counter

from wishbone.core.evaluate.experiment.generate import Generation
from wishbone.core.evaluate.experiment.items import UNMEASURED, Item, Items
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.result import Prompt
from wishbone.core.evaluate.result_parts import Timing
from wishbone.core.evaluate.statistics.turns import williams

OTHERS_LIMIT = 0.5
"""Share of the processors beside this run's one that other programs may use; above it, there is no
verdict on speed: cores share memory, caches and heat."""
OTHERS_LEAST = 0.1
"""Processors that others may always use: a system does some work of its own."""
LOAD_LIMIT = 1.0
"""Load for each core, this run's own thread included, above which no verdict on speed is given.
It counts where the processors of others are not known: the load remembers the minute before."""
WAITED_LIMIT = 0.2
"""Share of an item's time without work of this process, on a CPU, above which none is given."""
SHORTEST = 0.1
"""Seconds of the clock from which the work of others is counted."""
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


class Others:
    """Counts the processors that other programs use, from now on."""

    def __init__(self) -> None:
        """Where psutil is not installed nothing is counted."""
        self._begin = _used()

    def count(self) -> float | None:
        """Processors that others used since; None where it is not known or the time was too short.

        Steps of a system's clock are 10 ms, hence shorter times than ``SHORTEST`` say nothing.
        """
        now = _used()
        if self._begin is None or now is None:
            return None
        clock, ours, machine = (end - begin for begin, end in zip(self._begin, now, strict=True))
        if clock < SHORTEST:
            return None
        return round(min(max(0.0, (machine - ours) / clock), float(cores())), 2)


def _used() -> tuple[float, float, float] | None:
    """Seconds of the clock, of this process's work, and of work of this process's processors."""
    if not importlib.util.find_spec("psutil"):
        return None
    import psutil

    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    machine = 0.0
    for number, times in enumerate(psutil.cpu_times(percpu=True)):
        if allowed is None or number in allowed:
            spent = times._asdict()
            # a guest's time stands in "user", too
            others = ("idle", "iowait", "guest", "guest_nice")
            machine += sum(spent.values()) - sum(spent.get(name, 0.0) for name in others)
    return perf_counter(), sum(os.times()[:4]), machine


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
        others=middle("others"),
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
    counted = [row["others"] for row in timed if row.get("others") is not None]
    others = median(counted) if counted else None
    return Timing(
        rounds=round(median(row.get("rounds") or 1 for row in timed)),
        load=usual,
        load_most=max(loads, default=None),
        cores=cores(),
        waited=round(waited, 3),
        unmeasured=sum(item.failure == UNMEASURED for item in spoken),
        busy=busy(usual, cores(), waited if on_cpu else 0.0, others),
        others=others,
    )


def busy(usual: float | None, count: int, waited: float, others: float | None = None) -> str:
    """Say why a machine was too busy to compare speeds on, or "".

    ``usual`` is the load, ``count`` the processors, ``waited`` the share of an item's time without
    work, ``others`` the processors that other programs used; the load counts where they are None.
    """
    if others is not None and others > max(OTHERS_LEAST, OTHERS_LIMIT * (count - 1)):
        return f"other programs used {others:.1f} of {count} cores"
    if others is None and usual is not None and usual > LOAD_LIMIT * count:
        return f"the load was {usual:.1f} on {count} cores"
    if waited > WAITED_LIMIT:
        return f"items waited {100 * waited:.0f} % of their time for the processor"
    return ""


def unspoken(item: Item, seed: int) -> bool:
    """True for an item that is to be spoken: another seed's, or one that was not measured."""
    return item.seed != seed or item.failure == UNMEASURED
