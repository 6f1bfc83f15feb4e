"""Whatever speaks the items of one arm: a system of this process, in the manner that is asked."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wishbone.core.contract.errors import WishboneError
from wishbone.core.evaluate.experiment import generate
from wishbone.core.evaluate.experiment.generate import Generation
from wishbone.core.evaluate.prompts.prompt_lists import voice_of
from wishbone.core.evaluate.result import Prompt
from wishbone.core.evaluate.sources.manner import Manner
from wishbone.core.speak.server import Cancelled, Server
from wishbone.core.speak.utterance import Utterance
from wishbone.core.speak.voice import Voice, find
from wishbone.core.system.system import System

ALL = 1 << 30
"""More code frames than any utterance has."""
OTHER_SEED = 7919
"""Distance between the seeds of requests that share a batch; any will do."""


@dataclass(frozen=True)
class Spoken:
    """One item as a source gave it."""

    generation: Generation
    audio: np.ndarray
    """[S] float32."""
    rate: int
    """Samples per second."""
    codes: Sequence[Sequence[int]] | None = None
    """Code frames, each of Q codebooks; None where they are not known."""


class Source(ABC):
    """Whatever gives the recordings of one checkpoint."""

    @abstractmethod
    def speak(self, prompt: Prompt, seed: int, voice: str | None) -> Spoken:
        """Speak one prompt; an item that fails is a result like any other."""

    def prepare(self, voice: str | None) -> None:  # noqa: B027 - many have nothing to do
        """Do what the first item would pay for, and raise where no item can be spoken at all."""

    def read_text(self, text: str) -> None:  # noqa: B027 - many have no front end
        """Let a front end read a text, so that nobody pays for remembering it."""


class SystemSource(Source):
    """A system of this process."""

    def __init__(self, system: System, manner: Manner | None = None) -> None:
        """``system`` has its engine already: a batch is made of what its model holds then."""
        manner = manner or Manner()
        self.system = replace(system, decoder=_AtOnce(system.decoder)) if manner.whole else system
        self.manner = manner
        self._server = Server(self.system, manner.batch) if manner.batch else None

    def prepare(self, voice: str | None) -> None:
        """Speak one sentence, unmeasured: the first call pays for caches and lazy imports.

        Raises ``UnknownName`` for a voice that is none: every item would fail by it.
        """
        if voice:
            find(voice, self.system)
        self._speak(generate.WARM_UP, 0, voice, [])

    def read_text(self, text: str) -> None:
        """Let the front end read a text."""
        generate.read_text([self.system], text)

    def speak(self, prompt: Prompt, seed: int, voice: str | None) -> Spoken:
        """Speak one prompt. Of a batch no processor time is known: its requests share it."""
        record: list[Utterance] = []
        as_whom = voice_of(self.system, prompt, voice)
        generation, audio = self._speak(prompt.text, seed, as_whom, record)
        if self._server:
            generation = replace(generation, processor=None)
        codes = [code for utterance in record for code in utterance.codes]
        return Spoken(generation, audio, self.system.decoder.sample_rate, codes)

    def _speak(
        self, text: str, seed: int, voice: Voice | str | None, record: list[Utterance]
    ) -> tuple[Generation, np.ndarray]:
        with self._company(text, seed, voice):
            return generate.speak(
                self.system, text, seed, voice, server=self._server, record=record,
                arriving=self.manner.arriving,
            )  # fmt: skip

    @contextmanager
    def _company(self, text: str, seed: int, voice: Voice | str | None) -> Iterator[None]:
        """Fill the other rows of the batch, for as long as the item is spoken."""
        if self._server is None:
            yield
            return
        done = threading.Event()
        others = [
            threading.Thread(
                target=_drain,
                args=(self._server, text, voice, seed + OTHER_SEED * (row + 1), done),
                daemon=True,
            )
            for row in range(self.manner.batch - 1)
        ]
        for other in others:
            other.start()
        try:
            yield
        finally:
            done.set()
            for other in others:
                other.join()


def _drain(
    server: Server, text: str, voice: Voice | str | None, seed: int, done: threading.Event
) -> None:
    """Speak until the item beside it is done; an error here is nobody's."""
    try:
        for _ in server.stream(text, voice, seed, cancelled=done.is_set):
            if done.is_set():
                return
    except (Cancelled, WishboneError):
        return


class _AtOnce:
    """A decoder whose streams want all codes at once."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def start(self, **options: Any) -> _StreamAtOnce:
        return _StreamAtOnce(self._decoder.start(**options))


class _StreamAtOnce:
    """One stream of such a decoder."""

    def __init__(self, stream: Any) -> None:
        self.push, self.finish = stream.push, stream.finish

    def wants(self) -> int:
        """All that come."""
        return ALL
