"""A system that is served: loaded, accelerated and warm, with slots for its requests."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from wishbone.core.contract.errors import CapabilityError, UsageError, WishboneError
from wishbone.core.model.speech_lm import begin_session
from wishbone.core.serve.admission import Gate
from wishbone.core.serve.refusal import Refusal, of_error
from wishbone.core.serve.settings import Limits
from wishbone.core.speak.server import Server
from wishbone.core.speak.speaker import load
from wishbone.core.speak.voice import Voice, find
from wishbone.core.system.system import System

WARM_UP = "Ready."
"""Text that is spoken once before the server says that it is ready."""


@dataclass
class ServingArm:
    """A system with its batch server, its threads and its slots."""

    name: str
    system: System
    server: Server
    threads: ThreadPoolExecutor
    gate: Gate
    _voices: dict[str, Voice] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def start(cls, name: str, system: System, limits: Limits) -> ServingArm:
        """Give a system slots. Raises ``CapabilityError`` where it cannot speak many at once."""
        slots = limits.slots
        # a system that is guided by itself takes two rows of the batch for a request
        rows = slots if system.sampling.guidance == 1 else 2 * slots
        threads = ThreadPoolExecutor(slots, f"wishbone-{name}")
        return cls(name, system, Server(system, rows), threads, Gate(slots, limits.queue))

    @property
    def sample_rate(self) -> int:
        """Samples per second of its audio."""
        return self.system.decoder.sample_rate

    def warm_up(self) -> None:
        """Speak once, so that nothing is built or read while somebody waits.

        A system whose tokenizer finds nothing in the text is as warm as it can be.
        """
        try:
            for _ in self.server.stream(WARM_UP, self.voice(None)):
                pass
        except UsageError:
            return

    def voice(self, voice: Voice | None, instructions: str = "") -> Voice:
        """Return the voice to speak with; None means the system's own.

        Raises ``Refusal`` for a voice or instructions that this system cannot follow.
        """
        try:
            voice = self._own_voice() if voice is None else voice
            voice.prompt(self.system)
        except WishboneError as error:
            raise of_error(error, "voice") from error
        if not instructions:
            return voice
        try:
            voice = voice.instructed(instructions)
            # a layout may refuse an instruction, too
            begin_session(self.system.layout, voice.prompt(self.system))
        except (CapabilityError, UsageError) as error:
            raise of_error(error, "instructions") from error
        return voice

    def fits(self, voice: Voice) -> bool:
        """True where this system can speak with the voice."""
        try:
            self.voice(voice)
        except Refusal:
            return False
        return True

    def check_text(self, text: str) -> None:
        """Raise ``Refusal`` where nothing in a text can be spoken."""
        if next(iter(self.system.tokenizer.pieces(text)), None) is None:
            message = "Nothing in input can be spoken. Give at least one word or number."
            raise Refusal(400, message, "input")

    def _own_voice(self) -> Voice:
        with self._lock:
            if "" not in self._voices:
                self._voices[""] = find(self.system.config.get("voice"), self.system)
            return self._voices[""]


def load_arm(name: str, source: str, limits: Limits, engine: str, device: str) -> ServingArm:
    """Load a system as ``wishbone say`` does, build its engine, and speak once."""
    arm = ServingArm.start(name, load(source, device=device, engine=engine), limits)
    arm.warm_up()
    return arm
