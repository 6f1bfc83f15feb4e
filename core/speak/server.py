"""Many requests at once: each runs the pipeline in a thread of its own, all share every step.

A request runs ``wishbone.core.speak.text_to_speech.stream`` unchanged, in the thread that asks for
it, with its own generator, layout session and decoder. Only its model is replaced, by a
``_SlotModel``: a decoding step waits until every active request has submitted its position, and
the last thread to submit takes one step of the whole batch.

Thread safety: ``Server._lock`` guards the pool, the submitted positions and the number of active
requests; a docstring says "the lock is held" where the caller must have it. The model itself runs
under the lock, too. A waiting thread releases it in its condition variable. A request that works
outside the model (its decoder, a reader of its chunks, a source of its text) is not active
meanwhile, so nobody waits for it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from wishbone.core.audio.files import Audio
from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import WishboneError
from wishbone.core.contract.session import Position
from wishbone.core.model.sampling import Pick
from wishbone.core.model.slot_queue import SlotQueue
from wishbone.core.model.state_batch import Pool, copied
from wishbone.core.speak import text_to_speech
from wishbone.core.speak.utterance import Text, Utterance
from wishbone.core.speak.voice import Voice
from wishbone.core.system.system import System

TOGETHER = 16
"""Positions of one request that are taken one a step with everyone; more go through at once, alone,
because a matrix product over many positions reads the weights once."""
_END = object()


class Cancelled(Exception):
    """Raised in a stream that is no longer wanted, before its next position."""


@dataclass(frozen=True)
class Request:
    """Text to speak, the voice and the seed."""

    text: Text
    voice: Voice | str | None = None
    seed: int = 0
    guidance: float | None = None


@dataclass(frozen=True)
class SpokenRequest:
    """The result of a request."""

    number: int
    """Its place among the requests, from 0."""
    audio: Audio
    """Empty where ``error`` is set."""
    utterances: list[Utterance] = field(default_factory=list)
    error: WishboneError | None = None
    """Why it could not be spoken; the other requests are."""


class Server:
    """A system that speaks up to ``slots`` requests as one batch.

    A request draws the codes it draws alone with the same seed: nothing random and no state is
    shared, and a row of the batch is computed the same whatever the other rows hold. A system
    without a server computes one row by itself, whose float32 numbers differ in the last bits; the
    drawn codes then differ only where two candidates are as close as that.

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
        self._queue = SlotQueue(slots)
        self._submitted: list[_SlotModel] = []
        """Rows whose positions wait for the next step."""
        self._active = 0
        """Number of rows that the next step waits for."""

    def stream(
        self,
        text: Text,
        voice: Voice | str | None = None,
        seed: int = 0,
        record: list[Utterance] | None = None,
        guidance: float | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[Tensor]:
        """Speak as ``text_to_speech.stream`` does, in steps shared with other streams.

        Waits for a free slot first, a guided request for two, which raises ``CapabilityError``
        where there is only one. Between two chunks a stream holds nobody up, nor while it waits
        for text. One thread for each stream: two streams pulled in turn by one thread never meet.
        ``cancelled`` is called before every step of this stream; once it returns True, the stream
        raises ``Cancelled`` and its slot is free.
        """
        scale = self.system.sampling.guidance if guidance is None else guidance
        with self._queue.slots(1 if scale == 1 else 2):
            model = _SlotModel(self, cancelled=cancelled)
            try:
                chunks = text_to_speech.stream(
                    replace(self.system, model=model),
                    model.without_waiting(text),
                    voice,
                    seed,
                    record,
                    guidance=guidance,
                )
                for chunk in chunks:
                    with model.inactive():
                        yield chunk
            finally:
                model.leave()

    def say(self, requests: Iterable[Request | str]) -> Iterator[SpokenRequest]:
        """Speak all requests, as many at once as there are slots; each as soon as it is done.

        One that fails ends itself alone: its ``error`` says why.
        """
        with ThreadPoolExecutor(self.pool.slots, "wishbone-stream") as threads:
            jobs = [threads.submit(self._say, n, request) for n, request in enumerate(requests)]
            try:
                for job in as_completed(jobs):
                    yield job.result()
            finally:
                for job in jobs:
                    job.cancel()

    def _say(self, number: int, request: Request | str) -> SpokenRequest:
        request = Request(request) if isinstance(request, str) else request
        record: list[Utterance] = []
        rate = self.system.decoder.sample_rate
        try:
            chunks = list(
                self.stream(request.text, request.voice, request.seed, record, request.guidance)
            )
        except WishboneError as error:
            return SpokenRequest(number, Audio(torch.zeros(0), rate), record, error)
        return SpokenRequest(number, Audio(torch.cat(chunks), rate), record)

    def _step_while_all_wait(self) -> None:
        """Take steps as long as every active row waits for one. The lock is held."""
        while self._submitted and len(self._submitted) == self._active:
            rows = list(self._submitted)
            # a row may have several positions, of which nobody wants the rest any more
            answers: dict[_SlotModel, _Answer] = {
                row: Cancelled() for row in rows if row.is_cancelled
            }
            try:
                answers = answers or {**self._step(rows)}
            except BaseException as error:
                answers = {row: error for row in rows}
            for row, answer in answers.items():
                self._submitted.remove(row)
                row.resolve(answer)

    def _step(self, rows: list[_SlotModel]) -> dict[_SlotModel, Tensor | _Logits]:
        """Take one position of every row -> answers for the rows that have none left."""
        model = self.system.model
        positions = [row.positions.popleft() for row in rows]
        table = torch.tensor([[table] for table, _ in positions], device=model.device)  # [N, 1]
        ids = torch.tensor([[ids] for _, ids in positions], device=model.device)  # [N, 1, Q]
        with torch.inference_mode():
            x = model.embed(table, ids)[:, 0]  # [N, D]
            hidden = self.pool.step([row.slot for row in rows], x)  # [N, D]
            self.steps += 1
            last = [index for index, row in enumerate(rows) if not row.positions]
            if not last or not model.head.independent:
                return {rows[index]: hidden[index] for index in last}
            logits = model.head(hidden[last]).to("cpu", torch.float32)  # [M, Q, X]
        return {rows[i]: _Logits(row) for i, row in zip(last, logits, strict=True)}


@dataclass(frozen=True)
class _Logits:
    """Logits of one row, computed for many rows at once."""

    values: Tensor
    """[Q, X] float32 on the CPU."""


_Answer = Tensor | _Logits | BaseException
"""Hidden vector [D] or logits after the last position of a row, or the error of its step."""


class _SlotModel:
    """Stands in for the ``SpeechLM`` of one request: one row of the batch, a slot of the pool.

    A guided request has a second one, ``_second``, without a thread: it is active only while it
    has positions submitted.
    """

    def __init__(
        self, server: Server, active: bool = True, cancelled: Callable[[], bool] | None = None
    ) -> None:
        self.positions: deque[Position] = deque()
        """Submitted positions that no step has taken yet."""
        self._server, self._model, self._cancelled = server, server.system.model, cancelled
        # everything the pipeline reads of a ``SpeechLM`` beside the methods below
        self.backbone, self.head = self._model.backbone, self._model.head
        self.device, self.dtype = self._model.device, self._model.dtype
        self.state_dict = self._model.state_dict
        self._resolved = threading.Condition(server._lock)
        self._answer: _Answer | None = None
        self._second: _SlotModel | None = None
        with server._lock:
            self.slot = server.pool.join()
            server._active += active
            self._active = active

    def advance(self, positions: Sequence[Position], state: State) -> tuple[Tensor, State]:
        """As ``SpeechLM.advance``: positions that go through the model alone."""
        with self._server._lock:
            return self._model.advance(positions, state)

    def rows(self, states: Sequence[State]) -> _SlotRows:
        """As ``SpeechLM.rows``, for one or two; the second row has a slot of its own."""
        if len(states) > 1 and self._second is None:
            self._second = _SlotModel(self._server, active=False, cancelled=self._cancelled)
        rows = [self] if self._second is None else [self, self._second]
        return _SlotRows(self._server, rows[: len(states)], states)

    def prefill(self, positions: Sequence[Position]) -> Tensor:
        """Put positions through alone -> the last hidden vector [D]. The lock is held."""
        with torch.inference_mode():
            x = self._model.embed_positions(positions)[0]  # [T, D]
            return self._server.pool.forward(self.slot, x)[-1]  # [D]

    def check(self) -> None:
        """Raise ``Cancelled`` where nobody wants the stream any more."""
        if self.is_cancelled:
            raise Cancelled

    @property
    def is_cancelled(self) -> bool:
        """True where nobody wants the stream any more."""
        return self._cancelled is not None and self._cancelled()

    def submit(self, positions: Sequence[Position]) -> None:
        """Submit positions, to be taken one a step with the other rows. The lock is held."""
        self.positions.extend(positions)
        self._answer = None
        self._server._submitted.append(self)

    def wait(self) -> Tensor | _Logits:
        """Wait for the answer to the submitted positions, or raise its error. The lock is held."""
        while self._answer is None:
            self._resolved.wait()
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    def resolve(self, answer: _Answer) -> None:
        """Hand over the answer that ``wait`` waits for. The lock is held."""
        self.positions.clear()
        self._answer = answer
        self._resolved.notify()

    @contextmanager
    def inactive(self) -> Iterator[None]:
        """Let the other rows step without this one while the block runs."""
        self._set_active(False)
        try:
            yield
        finally:
            self._set_active(True)

    def without_waiting(self, text: Text) -> Text:
        """``text``, whose next piece is waited for while this row is inactive."""
        return text if isinstance(text, str) else self._pieces(iter(text))

    def leave(self) -> None:
        """Give the slot back."""
        with self._server._lock:
            self._server.pool.leave(self.slot)
            self._set_active(False)
            if self._second is not None:
                self._second.leave()

    def _set_active(self, active: bool) -> None:
        """Say whether a step waits for this row; the others may go on now."""
        with self._server._lock:
            self._server._active += active - self._active
            self._active = active
            self._server._step_while_all_wait()

    def _pieces(self, text: Iterator[str]) -> Iterator[str]:
        while True:
            with self.inactive():
                piece = next(text, _END)
            if piece is _END:
                return
            yield cast(str, piece)


class _SlotRows:
    """As ``wishbone.core.model.speech_lm.BatchRows``, in slots of the pool."""

    def __init__(self, server: Server, rows: Sequence[_SlotModel], states: Sequence[State]) -> None:
        self._server, self._rows = server, rows
        self._start_states: Sequence[State] | None = [copied(state) for state in states]
        """States to begin with; None once the first positions went through."""
        self._answers: list[Tensor | _Logits] = []

    def advance(self, rows: Sequence[Sequence[Position]]) -> None:
        """As ``BatchRows.advance``. The first positions of a sequence go through alone.

        Later, the positions that one row has more than the other go through alone, before the
        others.
        """
        self._rows[0].check()
        with self._server._lock:
            if self._start_states is not None:
                self._start(rows, self._start_states)
                self._start_states = None
                return
            shared = min(map(len, rows))
            shared = shared if shared <= TOGETHER else 0
            for index, (row, positions) in enumerate(zip(self._rows, rows, strict=True)):
                if alone := positions[: len(positions) - shared]:
                    self._answers[index] = row.prefill(alone)
            if shared:
                self._step_together([row[len(row) - shared :] for row in rows])

    def _start(self, rows: Sequence[Sequence[Position]], states: Sequence[State]) -> None:
        """Put the first positions through the model, and the state after them into the pool."""
        for row, positions, state in zip(self._rows, rows, states, strict=True):
            hidden = torch.empty(0)  # of a row that has nothing to feed yet, and draws nothing
            if positions:
                hidden, state = row.advance(positions, state)
            self._answers.append(hidden)
            self._server.pool.write(row.slot, state)

    def _step_together(self, rows: Sequence[Sequence[Position]]) -> None:
        """All rows have the same number of positions, so all are answered by the same step."""
        for row, positions in zip(self._rows, rows, strict=True):
            row.submit(positions)
        # a second row is active only here: it has no thread of its own
        self._server._active += len(self._rows) - 1
        try:
            self._server._step_while_all_wait()
            self._rows[0].wait()
        finally:
            self._server._active -= len(self._rows) - 1
        self._answers = [row.wait() for row in self._rows]

    @torch.inference_mode()
    def draw(self, positions: Sequence[Position], pick: Pick) -> tuple[int, ...]:
        """As ``BatchRows.draw``."""
        if positions:
            self.advance([positions])
        answer = self._answers[0]
        if isinstance(answer, _Logits):
            return tuple(pick(logits, q) for q, logits in enumerate(answer.values))
        return self._server.system.model.head.sample(answer, pick)

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """As ``BatchRows.logits``, [B, Q, X]."""
        head = self._server.system.model.head
        return torch.stack(
            [
                answer.values
                if isinstance(answer, _Logits)
                else head(answer).to("cpu", torch.float32)
                for answer in self._answers
            ]
        )  # [B, Q, X]
