"""A layout's side of one request: the actions it asks for, and the session that yields them.

``wishbone.core.speak.pipeline.frames`` is the loop that carries the actions out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

Position = tuple[int, tuple[int, ...]]
"""Index into ``Layout.tables``, and the ids of Q codebooks (text and markers use the first)."""


@dataclass(frozen=True)
class Feed:
    """Put these positions through the backbone."""

    positions: Sequence[Position]


@dataclass(frozen=True)
class Draw:
    """Draw the next ids from the last hidden vector and hand them to ``LayoutSession.drawn``."""

    banned: tuple[int, ...] = ()
    """Ids that must not be drawn."""
    forced: int | None = None
    """The only id that may be drawn, if any."""
    per_codebook: tuple[Draw, ...] = ()
    """One for every codebook, instead of the two fields above, where codebooks differ."""
    utterance_level: bool = False
    """The code describes the utterance as a whole, so repetition is neither judged nor counted."""
    cut: bool = False
    """The length rule, not the model, ends a word here; counted in ``Utterance.cut_words``."""

    def of(self, codebook: int) -> Draw:
        """Return the rules of one codebook."""
        return self.per_codebook[codebook] if self.per_codebook else self


@dataclass(frozen=True)
class Emit:
    """A code frame is ready for the decoder."""

    code: tuple[int, ...]


@dataclass(frozen=True)
class SetSpeaker:
    """The codes of the utterance as a whole are known; the decoder gets them as its speaker."""

    global_codes: tuple[int, ...]


@dataclass(frozen=True)
class NeedText:
    """More text is needed: call ``give_text`` or ``end_text``."""


@dataclass(frozen=True)
class Stop:
    """The utterance is over."""

    reason: str
    """"end" when the model ended it, "length" when the length rule did."""


Action = Feed | Draw | Emit | SetSpeaker | NeedText | Stop
Steps = Generator[Action, None, None]
"""Actions, one after the other; the last is a ``Stop``."""


NextText = Callable[[], None]
"""Hands the next text, or its end, to every session of a request."""


class LayoutSession(ABC):
    """One request's way through a layout: a state machine without parameters or tensors."""

    @abstractmethod
    def give_text(self, ids: Sequence[int]) -> None:
        """Take in more text."""

    @abstractmethod
    def end_text(self) -> None:
        """Take in that no more text will arrive."""

    @abstractmethod
    def next(self) -> Action:
        """Return the next action. After ``Draw`` comes ``drawn``; after ``NeedText`` comes text."""

    @abstractmethod
    def drawn(self, ids: tuple[int, ...]) -> None:
        """Take in the ids that the sampler drew, one for each codebook."""


class SteppedSession(LayoutSession):
    """A session written as a generator, so that it reads like the sequence it makes.

    Its actions are what ``_run`` yields, from its first position to its last. ``_run`` reads
    ``_text``, all ids that have arrived, and ``_ended``, whether more may come; it draws by
    ``ids = yield from self._draw(Draw(...))``. It begins with the first ``next``. What it yields
    before the first ``NeedText`` must follow from the prompt alone, so that a voice can keep it.
    """

    def __init__(self) -> None:
        self._text: list[int] = []
        self._ended = False
        self._drawn: tuple[int, ...] | None = None
        self._action: Action | None = None
        self._steps: Steps | None = None

    @abstractmethod
    def _run(self) -> Steps:
        """Yield the actions of the request; the last is a ``Stop``."""

    def give_text(self, ids: Sequence[int]) -> None:
        """Take in more text."""
        self._text.extend(ids)

    def end_text(self) -> None:
        """Take in that no more text will arrive."""
        self._ended = True

    def next(self) -> Action:
        """Return the next action; after the utterance is over, ``Stop`` again and again."""
        if self._steps is None:
            self._steps = self._run()
        action = next(self._steps, self._action)
        assert action is not None
        self._action = action
        return action

    def drawn(self, ids: tuple[int, ...]) -> None:
        """Take in the ids that the sampler drew."""
        self._drawn = ids

    def _draw(self, draw: Draw) -> Generator[Action, None, tuple[int, ...]]:
        """Ask for a draw; returns one id for each codebook."""
        self._drawn = None
        yield draw
        if self._drawn is None:
            raise RuntimeError("a session asked for a draw and was not told what was drawn")
        return self._drawn

    def _wait_for_the_end(self) -> Steps:
        """Take in text until no more will come."""
        while not self._ended:
            yield NeedText()
