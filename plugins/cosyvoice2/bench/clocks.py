"""Clocks of the benches: time by the clock, and work of the processor, which others cannot slow."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter, process_time, thread_time
from typing import Any

import torch
from torch import Tensor

from wishbone.core.contract.extensions.contender import Times

SAMPLE_RATE = 24_000


class Stopwatch:
    """Time since it was made, or since ``restart``."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Start again from zero."""
        self._clock, self._processor = perf_counter(), process_time()

    def read(self) -> tuple[float, float]:
        """Return seconds by the clock and of the processor; on a GPU both are by the clock."""
        if self.device != "cpu":
            torch.cuda.synchronize()
            # the processor's time says nothing about the work of a GPU
            return (perf_counter() - self._clock,) * 2
        return perf_counter() - self._clock, process_time() - self._processor


class Shares:
    """Processor time spent in parts of a system while it speaks."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}

    def watch(self, name: str, owner: Any, method: str) -> None:
        """Count the time of ``owner.method`` as that of ``name``."""
        inner = getattr(owner, method)
        self._spent[name] = 0.0

        def watched(*words: Any, **options: Any) -> Any:
            # of this thread alone: the public code has another one beside it
            begin = thread_time()
            try:
                return inner(*words, **options)
            finally:
                self._spent[name] += thread_time() - begin

        setattr(owner, method, watched)

    def listen(self, chunks: Iterator[Tensor]) -> Times:
        """Drain ``chunks`` of samples -> seconds per second of sound, and until the first.

        ``rtf`` and ``first_audio`` by the clock; ``work`` and ``first_work`` of the processor,
        and of it ``flow``, ``vocoder`` and ``language_model``, which is all that remains.
        """
        self._spent = dict.fromkeys(self._spent, 0.0)
        watch, samples = Stopwatch(), 0
        first: tuple[float, float] | None = None
        for chunk in chunks:
            samples += chunk.shape[-1]
            if samples and first is None:
                first = watch.read()
        if first is None:
            raise RuntimeError("nothing was spoken")
        seconds = samples / SAMPLE_RATE
        clock, work = watch.read()
        parts = {name: [spent / seconds] for name, spent in self._spent.items()}
        return {
            "rtf": [clock / seconds],
            "work": [work / seconds],
            "first_audio": [first[0]],
            "first_work": [first[1]],
            "language_model": [(work - sum(self._spent.values())) / seconds],
            **parts,
        }
