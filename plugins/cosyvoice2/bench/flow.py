"""A contender for ``wishbone bench``: the cost of the next second of mel after many others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from wishbone.core.contract.extensions.contender import Contender, Times
from wishbone.core.contract.part import Range, Size
from wishbone.core.testing.common import trained_looking_
from wishbone.plugins.cosyvoice2.bench.clocks import Stopwatch
from wishbone.plugins.cosyvoice2.flow.encoder import Attention
from wishbone.plugins.cosyvoice2.flow.estimator import Block
from wishbone.plugins.cosyvoice2.flow.memory import Memory
from wishbone.plugins.cosyvoice2.flow.model import CODES, Flow, FlowShape
from wishbone.plugins.cosyvoice2.flow.noise import Noises
from wishbone.plugins.cosyvoice2.flow.stream import Cutting, FlowPrompt, FlowStream, Past

RATE = 25
"""Codes per second, and in a chunk."""


@dataclass
class FlowWayConfig:
    """The two ways in which a stream goes on."""

    way: str = "remembering"
    """"remembering" keeps a memory of the past, "recomputing" starts from the first code again."""
    left: Annotated[int, Range(-1)] = -1
    """Seconds that a chunk sees before it, -1 for all; for the first way."""
    hop: Size = RATE
    """Codes between two computations; for the second way, whose largest is 100 upstream."""


class FlowWay(Contender):
    """Case ``second N``: time per second of audio when N seconds have been spoken.

    The suite's ``model`` has the ``shape`` of the flow (fields of ``FlowShape``), ``steps`` of
    Euler and a ``seed``. The memory of the past is random numbers, on which no time depends.
    """

    Config = FlowWayConfig

    def load(self) -> dict[str, Any]:
        """Build the flow on random weights."""
        model = self.job.model
        torch.manual_seed(model["seed"])
        flow = Flow(FlowShape(**model["shape"])).eval().requires_grad_(False)
        self.flow = trained_looking_(flow, model["seed"]).to(self.job.device)
        self.codes = torch.randint(0, CODES, (RATE,), device=self.job.device)  # [25]
        # all cases are prepared before the first is timed
        self.streams: dict[str, FlowStream] = {}
        return {
            "engine": self.config.way,
            "version": f"torch {torch.__version__}",
            "parameters": sum(p.numel() for p in flow.parameters()),
        }

    def prepare(self, case: str) -> dict[str, Any]:
        """Start where so many seconds have been spoken -> bytes of their memory."""
        seconds = int(case.split()[1])
        if self.config.way == "recomputing":
            return {}
        # a window of exactly so many seconds stays there however often it is timed
        window = min(seconds, self.config.left) if self.config.left >= 0 else seconds
        cutting = Cutting(RATE, window, steps=self.job.model["steps"])
        past = self._past(cutting, window)
        noises = Noises(self.flow.shape.mels, self.job.model["seed"])
        self.streams[case] = stream = FlowStream(self.flow, cutting, FlowPrompt(), noises, past)
        # a chunk waits for three codes more, so from here on 25 codes are 25 codes of mel
        stream.push(self.codes[: self.flow.shape.lookahead])
        stream.push(self.codes)
        return {"state_bytes": 4 * stream.past.numbers()}

    def run(self, case: str, count: int) -> Times:
        """``seconds`` by the clock, and ``work`` of the processor, per second of audio."""
        if self.config.way == "recomputing":
            pairs = [self._recompute(int(case.split()[1])) for _ in range(count)]
        else:
            stream = self.streams[case]
            pairs = [self._timed(lambda: stream.push(self.codes)) for _ in range(count)]
        seconds, work = zip(*pairs, strict=True)
        return {"seconds": list(seconds), "work": list(work)}

    def _recompute(self, seconds: int) -> tuple[float, float]:
        """Time a hop after so many seconds, from the first code on, per second of audio."""
        codes = self.codes.repeat(seconds + self.config.hop // RATE)  # [T]
        mels, steps = self.flow.shape.mels, self.job.model["steps"]
        noise = torch.randn(2 * len(codes), mels, device=codes.device)  # [2 T, M]
        clock, work = self._timed(
            lambda: self.flow.solve_all(codes, noise[:0], None, noise, RATE, steps=steps)
        )
        return clock * RATE / self.config.hop, work * RATE / self.config.hop

    def _timed(self, call: Callable[[], Any]) -> tuple[float, float]:
        """Time one call -> seconds by the clock and of the processor."""
        watch = Stopwatch(self.job.device)
        with torch.inference_mode():
            call()
        return watch.read()

    def _past(self, cutting: Cutting, seconds: int) -> Past:
        """Make the memory of so many seconds out of random numbers."""
        past, encoder = Past(cutting), self.flow.encoder
        past.at = RATE * seconds
        with torch.inference_mode():
            for memory in past.steps:
                self._fill(memory, self.flow.estimator, 2, 2 * past.at)
            self._fill(past.encoder[0], encoder.blocks, 1, past.at)
            self._fill(past.encoder[1], encoder.fine_blocks, 1, 2 * past.at)
        return past

    def _fill(self, memory: Memory, layers: torch.nn.Module, batch: int, length: int) -> None:
        """Fill a memory with keys and values [B, 2 H, T, d] for every attention in ``layers``."""
        for layer in layers.modules():
            if length and isinstance(layer, Block | Attention):
                width = layer.key.out_features // layer.heads
                shape = (batch, 2 * layer.heads, length, width)
                memory.attend(layer, torch.randn(shape, device=self.job.device))
