"""Contenders without any library, whose processes start at once, to test ``wishbone bench``."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from wishbone.core.contract.extensions.contender import Contender
from wishbone.core.registry.registry import HOME, Entry

FOLDER = str(Path(__file__).parent)
TOY = Entry("contender", "toy", "bench_toys:Toy", "", HOME)


@dataclass
class ToyConfig:
    seconds: float = 0.01
    """What every repetition is said to take."""
    log: str = ""
    """A file to note every run in."""
    dies_at: int = -1
    """The run in which the process ends."""
    answer: float = 1.0
    """What it says in a check."""
    absent: str = ""
    """Why it is not there, if it is not."""
    refused_case: str = ""
    """A case that it cannot make ready."""
    refuses: str = ""
    """What it raises when it is to load."""


class Toy(Contender):
    Config = ToyConfig

    def __init__(self, config, job):
        super().__init__(config, job)
        self.runs = []

    @classmethod
    def missing(cls, config, job):
        return config.absent

    def load(self):
        print("libraries like to talk on standard output")
        if self.config.refuses:
            raise RuntimeError(self.config.refuses)
        return {
            "engine": "toy",
            "version": "1",
            "process": os.getpid(),
            "threads": os.environ["OMP_NUM_THREADS"],
            "step_bytes": 1000,
        }

    def prepare(self, case):
        if case == self.config.refused_case:
            raise MemoryError("there is no room")
        return {}

    def check(self, what):
        return {"a": [1.0, 2.0], "b": [self.config.answer, 3.0]}

    def run(self, case, count):
        if len(self.runs) == self.config.dies_at:
            print("the last words", file=sys.stderr, flush=True)
            os._exit(7)
        if case == "hang":
            time.sleep(60)
        if self.config.log:
            with open(self.config.log, "a") as file:
                file.write(f"{self.config.seconds:g} {case}\n")
        self.runs.append(case)
        # the machine is twice as slow in every other round, for everybody
        slow = 1 + self.runs.count(case) % 2
        return {"seconds": [slow * self.config.seconds] * count}
