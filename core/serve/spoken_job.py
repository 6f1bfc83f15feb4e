"""A request while it is spoken: a thread makes bytes, the event loop takes them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from wishbone.core.contract.errors import UsageError, WishboneError
from wishbone.core.serve.arriving_pieces import ArrivingPieces
from wishbone.core.serve.encoding import Encoder, as_pcm
from wishbone.core.serve.refusal import Refusal, of_error
from wishbone.core.serve.serving_arm import ServingArm
from wishbone.core.speak.server import Cancelled
from wishbone.core.speak.utterance import Utterance
from wishbone.core.speak.voice import Voice

Result = TypeVar("Result")


@dataclass
class Order:
    """All that decides about the samples of a request."""

    text: str | ArrivingPieces
    voice: Voice | None
    instructions: str
    seed: int


@dataclass
class Course:
    """The course of a request, for the log and the metrics."""

    arrival: float
    """``time.monotonic`` when the request came."""
    samples: int = 0
    first_sound: float | None = None
    """Seconds from the arrival to the first samples."""
    begun: float | None = None
    """``time.monotonic`` when a slot was free."""
    spent: float = 0.0
    """Seconds in the slot."""
    failure: str = ""
    """A word for why it did not succeed: "cancelled", "timeout", "too_long", "error"."""

    @property
    def elapsed(self) -> float:
        """Seconds since the slot was free, or since the arrival."""
        return time.monotonic() - (self.begun or self.arrival)


class Job:
    """One request in a slot of its arm."""

    def __init__(
        self, arm: ServingArm, order: Order, encoder: Encoder, seconds: float, timeout: float
    ) -> None:
        """``seconds`` bounds the audio, ``timeout`` the time until all is spoken."""
        self.arm, self.order, self.encoder = arm, order, encoder
        self.course = Course(time.monotonic())
        self.record: list[Utterance] = []
        self._most = round(seconds * arm.sample_rate)
        self._deadline = self.course.arrival + timeout
        self._cancelled = threading.Event()
        self._queue: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    @property
    def is_cancelled(self) -> bool:
        """True once nobody wants the rest."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Stop before the next step of the batch; the slot is free then."""
        self._cancelled.set()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Wait for a slot, speak, and yield the bytes as they become final.

        Leaving it early cancels the request. Raises ``Refusal`` for what cannot be spoken or takes
        too long.
        """
        await self._in_time(self.arm.gate.take())
        self.course.begun = time.monotonic()
        self.arm.threads.submit(self._speak).add_done_callback(lambda _: self._on_loop(self._leave))
        try:
            while (item := await self._in_time(self._queue.get())) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        except Refusal as refusal:
            self.course.failure = self.course.failure or refusal.code
            raise
        except Exception:
            self.course.failure = "error"
            raise
        except BaseException:
            self.course.failure = self.course.failure or "cancelled"
            raise
        finally:
            self.cancel()

    async def _in_time(self, waiting: Awaitable[Result]) -> Result:
        """Wait for something until the deadline."""
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                return await waiting
        except TimeoutError:
            self.course.failure = "timeout"
            raise Refusal(
                504, "The request took longer than this server allows.", code="timeout"
            ) from None

    def _leave(self) -> None:
        self.arm.gate.leave(self.course.elapsed)

    def _on_loop(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return  # the loop is closed: the process ends

    def _put(self, item: bytes | BaseException | None) -> None:
        self._on_loop(lambda: self._queue.put_nowait(item))

    def _speak(self) -> None:
        """Run in a thread of the arm: all the work, every error handed to the event loop."""
        error = self._error_of_speaking()
        self.course.spent = self.course.elapsed
        self._put(error)

    def _error_of_speaking(self) -> Exception | None:
        try:
            self._speak_all()
        except Cancelled:
            return Refusal(499, "The request was cancelled.", code="cancelled")
        except UsageError as error:
            return of_error(error, "input")
        except WishboneError as error:
            return of_error(error)
        except Exception as error:
            return error
        return None

    def _speak_all(self) -> None:
        order, arm = self.order, self.arm
        voice = arm.voice(order.voice, order.instructions)
        if isinstance(order.text, str):
            arm.check_text(order.text)
        stream = arm.server.stream(
            order.text, voice, order.seed, self.record, cancelled=self._cancelled.is_set
        )
        try:
            for chunk in stream:
                if len(chunk):
                    self._add(chunk)
        finally:
            stream.close()
        if not self.course.samples:
            raise Refusal(500, "The system said nothing.", code="no_audio")
        if data := self.encoder.finish():
            self._put(data)

    def _add(self, chunk: Tensor) -> None:
        """Encode a chunk [S] and hand its bytes on."""
        self.course.samples += len(chunk)
        if self.course.samples > self._most:
            message = "The speech became longer than this server allows. Send a shorter text."
            raise Refusal(413, message, "input", "too_long")
        if self.course.first_sound is None:
            self.course.first_sound = time.monotonic() - self.course.arrival
        if data := self.encoder.add(as_pcm(chunk)):
            self._put(data)
