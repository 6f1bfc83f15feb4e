"""Many requests at once: each goes its own way through the pipeline, all share every step.

A request runs ``wishbone.core.speak.pipeline.stream`` unchanged, in the thread that asks for it, with its
own generator, layout session and decoder. Only the model is stood in for: where the pipeline asks
for a step, the thread waits until every request that is not busy elsewhere asks too, and the last
to ask takes one step for all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wishbone.core.audio.files import Audio
from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import CapabilityError
from wishbone.core.contract.session import Position
from wishbone.core.model.sampling import Pick
from wishbone.core.model.state_batch import Pool, copied
from wishbone.core.speak import pipeline
from wishbone.core.speak.pipeline import Text, Utterance

if TYPE_CHECKING:
    from wishbone.core.speak.voice import Voice
    from wishbone.core.system.system import System

TOGETHER = 16
"""Positions of one request that are taken one a step with everyone; more go through at once, alone,
because a matrix product over many positions reads the weights once."""


@dataclass(frozen=True)
class Request:
    """Text to speak, the voice and the seed."""

    text: Text
    voice: Voice | str | None = None
    seed: int = 0
    guidance: float | None = None


@dataclass(frozen=True)
class Said:
    """A request that is done."""

    number: int
    """Its place among the requests, from 0."""
    audio: Audio
    utterances: list[Utterance] = field(default_factory=list)


class Server:
    """A system that speaks up to ``slots`` requests as one batch.

    A request draws the codes it draws alone with the same seed: nothing random and no state is
    shared, and a row of the batch is computed the same whoever else is there. A system without a
    server computes one row by itself, whose float32 numbers differ in the last bits; the drawn
    codes then differ only where two candidates are as close as that.

    Methods may be called from any thread.
    """

    def __init__(
        self, system: System, slots: int = 8, narrow: Mapping[str, torch.dtype] | None = None
    ) -> None:
        """``narrow`` as in ``Pool``. Raises ``CapabilityError``."""
        self.system = system
        self.pool = Pool(system.model.backbone, slots, narrow)
        self.steps = 0
        """Batched steps so far."""
        self._lock = threading.RLock()
        self._door = _Door(slots)
        self._asking: list[_Seat] = []
        self._present = 0

    def stream(
        self,
        text: Text,
        voice: Voice | str | None = None,
        seed: int = 0,
        record: list[Utterance] | None = None,
        guidance: float | None = None,
    ) -> Iterator[Tensor]:
        """``wishbone.core.speak.pipeline.stream`` together with whoever else is streaming.

        Waits for a free slot first, a guided request for two, which raises ``CapabilityError``
        where there is only one. Between two chunks a stream holds nobody up, nor while it waits
        for text. One thread for each stream: two streams pulled in turn by one thread never meet.
        """
        scale = self.system.sampling.guidance if guidance is None else guidance
        with self._door.places(1 if scale == 1 else 2):
            seat = _Seat(self)
            try:
                chunks = pipeline.stream(
                    replace(self.system, model=seat),
                    seat.reading(text),
                    voice,
                    seed,
                    record,
                    guidance=guidance,
                )
                for chunk in chunks:
                    with seat.elsewhere():
                        yield chunk
            finally:
                seat.leave()

    def say(self, requests: Iterable[Request | str]) -> Iterator[Said]:
        """Speak all requests, as many at once as there are slots; each as soon as it is done."""
        with ThreadPoolExecutor(self.pool.slots, "wishbone-stream") as threads:
            jobs = [threads.submit(self._say, n, request) for n, request in enumerate(requests)]
            try:
                for job in as_completed(jobs):
                    yield job.result()
            finally:
                for job in jobs:
                    job.cancel()

    def _say(self, number: int, request: Request | str) -> Said:
        request = Request(request) if isinstance(request, str) else request
        record: list[Utterance] = []
        chunks = list(
            self.stream(request.text, request.voice, request.seed, record, request.guidance)
        )
        return Said(number, Audio(torch.cat(chunks), self.system.decoder.sample_rate), record)

    def _settle(self) -> None:
        """Step as long as everyone who is present waits for it. The lock is held."""
        while self._asking and len(self._asking) == self._present:
            asking = list(self._asking)
            try:
                answers = self._step(asking)
            except BaseException as error:
                answers = {seat: error for seat in asking}
            for seat, answer in answers.items():
                self._asking.remove(seat)
                seat.answer(answer)

    def _step(self, asking: list[_Seat]) -> dict[_Seat, Any]:
        """One position of everyone; what those get who have none left."""
        model = self.system.model
        positions = [seat.waiting.popleft() for seat in asking]
        table = torch.tensor([[table] for table, _ in positions], device=model.device)
        ids = torch.tensor([[ids] for _, ids in positions], device=model.device)
        with torch.inference_mode():
            vectors = model.embed(table, ids)[:, 0]
            hidden = self.pool.step([seat.slot for seat in asking], vectors)
            self.steps += 1
            done = [index for index, seat in enumerate(asking) if not seat.waiting]
            if not done or not model.head.independent:
                return {asking[index]: hidden[index] for index in done}
            logits = model.head(hidden[done]).to("cpu", torch.float32)
        return {asking[i]: _Logits(row) for i, row in zip(done, logits, strict=True)}


class _Door:
    """Lets requests in, in the order in which they come, each when there is room for all of it."""

    def __init__(self, places: int) -> None:
        self._all = self._free = places
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def places(self, count: int) -> Iterator[None]:
        """Keep so many places. Raises ``CapabilityError`` for more than there are."""
        if count > self._all:
            raise CapabilityError(
                "A guided request needs two slots, and this server has one.",
                "Server(slots=...)",
                "Make a server of two slots or more, or leave guidance at 1.",
            )
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._free >= count)
            self._free -= count
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


@dataclass(frozen=True)
class _Logits:
    """[Q, X], computed for many requests at once."""

    rows: Tensor


class _Seat:
    """Stands in for the model of one request, which has a slot of the pool as long as it lives."""

    def __init__(self, server: Server, present: bool = True) -> None:
        self.waiting: deque[Position] = deque()
        self._server, self._model = server, server.system.model
        # what the pipeline reads of a ``SpeechLM`` beside the calls below
        self.backbone, self.head = self._model.backbone, self._model.head
        self.device, self.dtype = self._model.device, self._model.dtype
        self.state_dict = self._model.state_dict
        self._answered = threading.Condition(server._lock)
        self._answer: Any = None
        self._beside: _Seat | None = None
        with server._lock:
            self.slot = server.pool.join()
            server._present += present
            self._present = present

    def advance(self, positions: Sequence[Position], state: State) -> tuple[Tensor, State]:
        """As ``SpeechLM.advance``: positions that go through the model alone."""
        with self._server._lock:
            return self._model.advance(positions, state)

    def rows(self, states: Sequence[State]) -> _PoolRows:
        """As ``SpeechLM.rows``, for one or two; the second row has a slot of its own."""
        if len(states) > 1 and self._beside is None:
            self._beside = _Seat(self._server, present=False)
        seats = [self] if self._beside is None else [self, self._beside]
        return _PoolRows(self._server, seats[: len(states)], states)

    def through(self, positions: Sequence[Position]) -> Tensor:
        """Put positions through alone -> the last hidden vector [D]. The lock is held."""
        with torch.inference_mode():
            vectors = self._model.embed_positions(positions)[0]
            return self._server.pool.forward(self.slot, vectors)[-1]

    def ask(self, positions: Sequence[Position]) -> None:
        """Ask for positions to be taken one a step with everyone. The lock is held."""
        self.waiting.extend(positions)
        self._answer = None
        self._server._asking.append(self)

    def wait(self) -> Any:
        """Wait for what became of the positions asked for. The lock is held."""
        while self._answer is None:
            self._answered.wait()
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    def answer(self, answer: Any) -> None:
        """Hand over the answer that ``wait`` waits for, or an error. The lock is held."""
        self.waiting.clear()
        self._answer = answer
        self._answered.notify()

    def elsewhere(self) -> _Elsewhere:
        """A context in which nobody waits for this request."""
        return _Elsewhere(self)

    def be_present(self, present: bool) -> None:
        """Say whether the others have to wait for this request."""
        with self._server._lock:
            self._server._present += present - self._present
            self._present = present
            self._server._settle()

    def reading(self, text: Text) -> Text:
        """``text``, waiting for which holds nobody up."""
        return text if isinstance(text, str) else self._pieces(iter(text))

    def _pieces(self, text: Iterator[str]) -> Iterator[str]:
        while True:
            with self.elsewhere():
                piece = next(text, None)
            if piece is None:
                return
            yield piece

    def leave(self) -> None:
        """Give the slot back."""
        with self._server._lock:
            self._server.pool.leave(self.slot)
            self.be_present(False)
            if self._beside is not None:
                self._beside.leave()


class _PoolRows:
    """As ``wishbone.core.model.speech_lm.BatchRows``, in slots of the pool: they step with everyone."""

    def __init__(self, server: Server, seats: Sequence[_Seat], states: Sequence[State]) -> None:
        self._server, self._seats = server, seats
        self._begin: Sequence[State] | None = [copied(state) for state in states]
        self._answers: list[Any] = [None] * len(seats)

    def advance(self, rows: Sequence[Sequence[Position]]) -> None:
        """As ``BatchRows.advance``. The first positions of a sequence go through alone.

        Later, what one row has more than the other goes through alone before the rest.
        """
        with self._server._lock:
            if self._begin is not None:
                self._start(rows, self._begin)
                self._begin = None
                return
            shared = min(map(len, rows))
            shared = shared if shared <= TOGETHER else 0
            for index, (seat, row) in enumerate(zip(self._seats, rows, strict=True)):
                if alone := row[: len(row) - shared]:
                    self._answers[index] = seat.through(alone)
            if shared:
                self._ask([row[len(row) - shared :] for row in rows])

    def _start(self, rows: Sequence[Sequence[Position]], states: Sequence[State]) -> None:
        """Put the first positions through the model, and what it remembers into the pool."""
        for index, (seat, row, state) in enumerate(zip(self._seats, rows, states, strict=True)):
            if row:
                self._answers[index], state = seat.advance(row, state)
            self._server.pool.write(seat.slot, state)

    def _ask(self, rows: Sequence[Sequence[Position]]) -> None:
        """All rows have the same length, so all are answered at once."""
        for seat, row in zip(self._seats, rows, strict=True):
            seat.ask(row)
        # the seats beside are there only while they ask: they have no thread of their own
        self._server._present += len(self._seats) - 1
        try:
            self._server._settle()
            self._seats[0].wait()
        finally:
            self._server._present -= len(self._seats) - 1
        self._answers = [seat.wait() for seat in self._seats]

    @torch.inference_mode()
    def sample(self, pick: Pick) -> tuple[int, ...]:
        """As ``BatchRows.sample``."""
        answer = self._answers[0]
        if isinstance(answer, _Logits):
            return tuple(pick(logits, q) for q, logits in enumerate(answer.rows))
        return self._server.system.model.head.sample(answer, pick)

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """As ``BatchRows.logits``, [rows, Q, X]."""
        head = self._server.system.model.head
        return torch.stack(
            [
                answer.rows
                if isinstance(answer, _Logits)
                else head(answer).to("cpu", torch.float32)
                for answer in self._answers
            ]
        )  # [B, Q, X]


class _Elsewhere:
    def __init__(self, seat: _Seat) -> None:
        self._seat = seat

    def __enter__(self) -> None:
        self._seat.be_present(False)

    def __exit__(self, *reason: object) -> None:
        self._seat.be_present(True)
