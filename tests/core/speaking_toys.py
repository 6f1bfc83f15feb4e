"""Contenders that speak a tone, to test the measurements of speaking."""

import time
from dataclasses import dataclass

import numpy as np

from wishbone.core.bench.built_in.speaking import SpeakingContender

RATE = 16_000


@dataclass
class ToneConfig:
    loud: float = 0.3
    seconds: float = 1.0
    delay: float = 0.0
    """Seconds before the first samples."""
    dies_of: str = ""
    """A text that it cannot say."""
    absent: str = ""


class Tone(SpeakingContender):
    Config = ToneConfig

    @classmethod
    def missing(cls, config, job):
        return config.absent

    def load(self):
        self.rate = RATE
        return {"engine": "tone", "version": "1", "licence": "CC0", "parameters": 2_000_000}

    def chunks(self, text):
        if self.config.dies_of and self.config.dies_of in text:
            raise RuntimeError("that word is too long")
        time.sleep(self.config.delay)
        half = int(self.config.seconds * RATE / 2)
        steps = np.arange(2 * half) / RATE
        audio = (self.config.loud * np.sin(2 * np.pi * 220 * steps)).astype(np.float32)
        yield audio[:half]
        yield np.zeros(0, np.float32)
        yield audio[half:]
