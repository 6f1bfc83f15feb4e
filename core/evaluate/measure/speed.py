"""Speed and memory against length, measured: what a backbone costs when much lies behind it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import torch

from wishbone.core.contract.backbone import Backbone, State
from wishbone.core.evaluate.record import read_record
from wishbone.core.evaluate.result import LengthCost, Machine, Memory
from wishbone.core.system.system import System

SECONDS = (0, 2, 5, 10, 20, 40, 80)
"""Lengths of audio behind the measured steps."""
STEPS = 24
"""Measured steps at each length; their median is reported."""
CHUNK = 256
"""Positions the state is advanced by at once between lengths."""

_CHILD = """
import json, resource, sys
def peak():
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # on Linux the usage of a new process begins with its parent's peak; this does not
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
from wishbone.core.speak import text_to_speech
from wishbone.core.speak.speaker import build
values, text, voice, engine, weights = json.load(sys.stdin)
imported = peak()
system = build(values)
system.model.accelerate(engine, weights)
loaded = peak()
seconds = text_to_speech.say(system, text, voice or None).seconds
print(json.dumps({"imported": imported, "loaded": loaded, "peak": peak(), "seconds": seconds}))
"""


def clocked(work: Callable[[], object], device: str | torch.device) -> float:
    """Seconds of one call by the clock, until the device has finished it."""
    begin = perf_counter()
    work()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - begin


def against_length(
    systems: Mapping[str, System], seconds: Sequence[float] = SECONDS, steps: int = STEPS
) -> dict[str, list[LengthCost]]:
    """Per arm and length: milliseconds of a decoding step, and bytes of the state.

    A step is the whole language model's: one position through the backbone, and the head. The
    arms take turns at every length. ``state_bytes`` is the backbone's exact formula;
    ``held_bytes`` are the bytes of the tensors that it really holds then.
    """
    costs: dict[str, list[LengthCost]] = {key: [] for key in systems}
    decodings = {key: _Decoding(system) for key, system in systems.items()}
    for number, length in enumerate(seconds):
        order = list(decodings) if number % 2 == 0 else list(reversed(decodings))
        for key in order:
            costs[key].append(decodings[key].measure(length, steps))
    return costs


class _Decoding:
    """One arm's state, growing from length to length."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.backbone: Backbone = system.model.backbone
        self.rate = system.decoder.codes.rate
        self.position = 0
        self.state = self._first()
        self.random = torch.Generator().manual_seed(0)
        self.measure(0, 3)  # the first steps compile and allocate
        self.position, self.state = 0, self._first()

    def _first(self) -> State:
        model = self.system.model
        return self.backbone.init_state(1, device=model.device, dtype=model.dtype)

    @torch.inference_mode()
    def measure(self, seconds: float, steps: int) -> LengthCost:
        """Advance the state to a length and measure steps there."""
        goal = round(seconds * self.rate)
        while self.position < goal:
            size = min(CHUNK, goal - self.position)
            _, self.state = self.backbone(self._vectors(size), self.state)
            self.position += size
        # steps may write into the state; decoding goes on from a copy of it
        state = {name: part.clone() for name, part in self.state.items()}
        times, head = [], self.system.model.head
        for _ in range(steps):
            vector = self._vectors(1)

            def step(vector: torch.Tensor = vector) -> None:
                head(self.backbone.step_(vector, state)[0, 0])

            times.append(clocked(step, self.system.model.device))
        return LengthCost(
            seconds=float(seconds),
            positions=self.position,
            step_ms=1000 * median(times),
            state_bytes=self.backbone.state_bytes(self.position, dtype=self.system.model.dtype),
            held_bytes=sum(t.numel() * t.element_size() for t in self.state.values()),
        )

    def _vectors(self, count: int) -> torch.Tensor:
        model = self.system.model
        noise = torch.randn(1, count, self.backbone.width, generator=self.random)
        return noise.to(model.device, model.dtype)


def peak_memory(
    config: Mapping[str, Any], text: str, voice: str | None, engine: str, weights: str
) -> Memory:
    """Bytes a fresh process holds at most: libraries imported, system loaded, ``text`` spoken.

    ``engine`` and ``weights`` are those of ``SpeechLM.accelerate``; what an engine packs counts as
    loaded. A process of its own for each arm, because freed memory stays with a process and would
    hide the second arm's peak behind the first one's. Empty where it cannot be measured.
    """
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _CHILD],
            input=json.dumps([dict(config), text, voice, engine, weights]),
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        return read_record(Memory, json.loads(answer.stdout.splitlines()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return Memory()


def machine() -> Machine:
    """The machine that times are taken on."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":")[1].strip() for line in file if "model name" in line), name)
    except OSError:
        pass
    return Machine(
        processor=name,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        system=platform.platform(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
    )
