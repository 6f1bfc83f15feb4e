"""A turn written as a generator, so that it reads like the sequence it makes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Sequence

from wishbone.core.interfaces import Action, Draw, Turn, Wait

Steps = Generator[Action, None, None]
"""Actions, one after the other; the last is a ``Stop``."""


class SteppedTurn(Turn):
    """A request whose actions are what ``_run`` yields, from its first position to its last.

    ``_run`` reads ``_text``, all ids that have arrived, and ``_ended``, whether more may come; it
    draws by ``ids = yield from self._draw(Draw(...))``. It begins with the first ``next``. What it
    yields before the first ``Wait`` must follow from the prompt alone, so that a voice can keep it.
    """

    def __init__(self) -> None:
        self._text: list[int] = []
        self._ended = False
        self._drawn: tuple[int, ...] | None = None
        self._action: Action | None = None
        self._steps: Steps | None = None

    @abstractmethod
    def _run(self) -> Steps:
        """The actions of the request; the last is a ``Stop``."""

    def give_text(self, ids: Sequence[int]) -> None:
        """More text arrived."""
        self._text.extend(ids)

    def end_text(self) -> None:
        """No more text will arrive."""
        self._ended = True

    def next(self) -> Action:
        """What to do now; after the utterance is over, ``Stop`` again and again."""
        if self._steps is None:
            self._steps = self._run()
        action = next(self._steps, self._action)
        assert action is not None
        self._action = action
        return action

    def drawn(self, ids: tuple[int, ...]) -> None:
        """What the sampler drew."""
        self._drawn = ids

    def _draw(self, wish: Draw) -> Generator[Action, None, tuple[int, ...]]:
        """Ask for a draw; gives one id for each codebook."""
        self._drawn = None
        yield wish
        if self._drawn is None:
            raise RuntimeError("a turn asked for a draw and was not told what was drawn")
        return self._drawn

    def _wait_for_the_end(self) -> Steps:
        """Take in text until no more will come."""
        while not self._ended:
            yield Wait()
