"""The contract of a layout session: one request as a row of actions.

``wishbone.core.speak.pipeline.frames`` is the loop that carries the actions out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

Position = tuple[int, tuple[int, ...]]
"""Index into ``Layout.tables``, and ids of Q codebooks; of text and markers the first is read."""


@dataclass(frozen=True)
class Feed:
    """Prefill or decode: put these positions through the backbone."""

    positions: Sequence[Position]


@dataclass(frozen=True)
class Draw:
    """Sample the next ids from the last hidden vector, and answer with them."""

    banned: tuple[int, ...] = ()
    """Ids that must not be drawn."""
    forced: int | None = None
    """The only id that may be drawn, if any."""
    per_codebook: tuple[Draw, ...] = ()
    """One for every codebook, instead of the two fields above, where codebooks differ."""
    utterance_level: bool = False
    """True for a code of the utterance as a whole: repetition is neither penalised nor counted."""
    cut: bool = False
    """True where the length rule, not the model, ends a word; counted as ``cut_words``."""


@dataclass(frozen=True)
class Emit:
    """Hand a code frame to the decoder."""

    code: tuple[int, ...]
    """Codes of the Q codebooks."""


@dataclass(frozen=True)
class SetSpeaker:
    """Hand the codes of the utterance as a whole to the decoder, as its speaker.

    Comes before the first ``Emit``.
    """

    global_codes: tuple[int, ...]
    """[G]."""


@dataclass(frozen=True)
class NeedText:
    """Wait for text, and answer with its ids, or with None where no more will come."""


@dataclass(frozen=True)
class Stop:
    """End the utterance."""

    reason: str
    """"end" when the model ended it, "length" when the length rule did. (The pipeline itself has
    "repeats".)"""


Action = Feed | Draw | Emit | SetSpeaker | NeedText | Stop
Answer = Sequence[int] | None
"""Ids that ``Draw`` or ``NeedText`` asked for; None where text has ended, and to other actions."""
Steps = Generator[Action, Answer, None]
"""Actions, one after the other; the last is a ``Stop``. What a ``yield`` gives is its answer."""


class WordEnd(NamedTuple):
    """End of a word of the request."""

    frames: int
    """Code frames that were emitted when it ended."""
    drawn: bool = True
    """True where the model ended it, False for an estimate."""


class LayoutSession(ABC):
    """One request on its way through a layout: a state machine without parameters or tensors.

    Its positions are those of ``Layout.train``, one after another. Actions before the first
    ``NeedText`` depend on the prompt alone, so that a voice can store the state after them.
    """

    word_ends: list[WordEnd]
    """Ends of the request's words so far, all of them at ``Stop``; only sessions of a layout with
    ``times_words`` have it."""

    @abstractmethod
    def next(self, answer: Answer = None) -> Action:
        """Return the first action, or the one that follows ``answer``.

        The answer to ``Draw`` is the ids that were sampled, one for each codebook; to ``NeedText``
        it is more ids of the tokenizer (empty where none have come yet), or None, after which no
        text is asked for again. Other actions have none. When the utterance is over, ``Stop`` comes
        again and again.
        """


class SteppedSession(LayoutSession):
    """A session written as a generator, so that it reads like the sequence it makes.

    Its actions are what ``_run`` yields, from its first position to its last. ``_run`` reads
    ``_text``, all ids that have arrived, and ``_ended``, True when no more will come; it draws by
    ``ids = yield from self._draw(Draw(...))``.
    """

    def __init__(self) -> None:
        self.word_ends: list[WordEnd] = []
        self._text: list[int] = []
        self._ended = False
        self._action: Action | None = None
        self._steps: Steps | None = None

    @abstractmethod
    def _run(self) -> Steps:
        """Yield the actions of the request; the last is a ``Stop``."""

    def next(self, answer: Answer = None) -> Action:
        """Return the first action, or the one that follows ``answer``."""
        if isinstance(self._action, NeedText):
            self._text.extend(answer or ())
            self._ended = answer is None
        if self._steps is None:
            self._steps = self._run()
        with suppress(StopIteration):
            self._action = self._steps.send(answer)
        assert self._action is not None
        return self._action

    def _draw(self, draw: Draw) -> Generator[Action, Answer, tuple[int, ...]]:
        """Yield ``draw`` and return its ids, one for each codebook."""
        ids = yield draw
        if ids is None:
            raise RuntimeError("no ids were given to a session after its Draw")
        return tuple(ids)

    def _wait_for_the_end(self) -> Steps:
        """Yield ``NeedText`` until the text is complete."""
        while not self._ended:
            yield NeedText()
