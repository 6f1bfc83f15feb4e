"""The batch rows in which one request is decoded: one row, or two where it is guided.

A row keeps the positions that a layout feeds until an id has to be drawn; then all of them go
through the backbone in one call, a prefill where there are several and a decoding step for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import CapabilityError
from wishbone.core.contract.layout import Layout, Prompt
from wishbone.core.contract.session import Action, Draw, Feed, NeedText, NextText, Position, Stop
from wishbone.core.model.sampling import Pick, Sampler
from wishbone.core.model.speech_lm import BatchRows, SpeechLM, begin_session


class PlainRow:
    """The batch row of a request that nothing guides."""

    followers: Sequence[Follower] = ()

    def __init__(self, model: SpeechLM, prompt_state: State) -> None:
        self._batch = model.rows([prompt_state])
        self._waiting: list[Position] = []

    def feed(self, positions: Sequence[Position]) -> None:
        """Keep positions until an id has to be drawn."""
        self._waiting.extend(positions)

    def draw(self, action: Draw, sampler: Sampler, next_text: NextText) -> tuple[int, ...]:
        """Feed the positions that wait, unless the id is forced, and draw Q ids."""
        if self._waiting and action.forced is None:
            self._batch.advance([self._waiting])
            self._waiting = []
        return sampler.draw(action, self._batch.sample)


class GuidedRows:
    """The row of a request and the one without its conditions: two rows of logits become one.

    Only the first row's session decides what may be drawn and when the utterance ends.
    """

    def __init__(self, batch: BatchRows, follower: Follower, scale: float) -> None:
        self.followers = (follower,)
        self._batch = batch
        self._follower = follower
        self._scale = scale
        self._waiting: list[Position] = []

    def feed(self, positions: Sequence[Position]) -> None:
        """Keep the first row's positions until an id has to be drawn."""
        self._waiting.extend(positions)

    def draw(self, action: Draw, sampler: Sampler, next_text: NextText) -> tuple[int, ...]:
        """Feed the positions that wait in both rows, unless the id is forced, and draw for both.

        The second row takes no part in a draw of the speaker that it does without. Raises
        ``CapabilityError`` where it would have to draw when the first does not.
        """
        follower = self._follower
        second_action = follower.next_draw(next_text)
        if action.forced is None and (self._waiting or follower.waiting):
            self._batch.advance([self._waiting, follower.waiting])
            self._waiting, follower.waiting = [], []
        together = action.utterance_level == second_action.utterance_level
        if together:
            _check_same_place(action, second_action)

        def sample(pick: Pick) -> tuple[int, ...]:
            logits = self._batch.logits()  # [2, Q, X]
            combined = logits[0]  # [Q, X]
            if together:
                combined = guided(logits[0], logits[1], self._scale)  # [Q, X]
            return tuple(pick(codebook, q) for q, codebook in enumerate(combined))

        ids = sampler.draw(action, sample)
        if together:
            follower.drawn(ids)
        return ids


class Follower:
    """The session of the second row, which goes from draw to draw beside the request's own."""

    def __init__(
        self, layout: Layout, prompt: Prompt, reduce_text: Callable[[Sequence[int]], Sequence[int]]
    ) -> None:
        """``reduce_text`` makes the text that the second row reads from the request's."""
        self.waiting: list[Position] = []
        """Positions to feed before the next draw."""
        self._session, _, action = begin_session(layout, prompt)
        self._action: Action | None = action
        self._reduce_text = reduce_text
        self._pending: Draw | None = None

    def next_draw(self, next_text: NextText) -> Draw:
        """Go to the draw it needs ids for; ``next_text()`` hands text to both sessions."""
        while self._pending is None:
            action, self._action = self._action or self._session.next(), None
            match action:
                case Feed(positions):
                    self.waiting.extend(positions)
                case NeedText():
                    next_text()
                case Draw():
                    self._pending = action
                case Stop():
                    raise _out_of_step("it ends first")
        return self._pending

    def drawn(self, ids: tuple[int, ...]) -> None:
        """Take in the ids that were drawn for both rows."""
        self._pending = None
        self._session.drawn(ids)

    def give_text(self, ids: Sequence[int]) -> None:
        """Take in more of the request's text."""
        self._session.give_text(self._reduce_text(ids))

    def end_text(self) -> None:
        """Take in that no more text will arrive."""
        self._session.end_text()


def guided(conditioned: Tensor, unconditioned: Tensor, scale: float) -> Tensor:
    """Logits [Q, X] of both rows -> u + s (c - u), as ``wishbone.core.speak.guidance`` has it."""
    return unconditioned + scale * (conditioned - unconditioned)  # [Q, X]


def _check_same_place(first: Draw, second: Draw) -> None:
    """Raise ``CapabilityError`` unless the same codebooks are free in both rows."""
    free = [
        [draw.of(q).forced is None for q in range(len(draw.per_codebook) or 1)]
        for draw in (first, second)
    ]
    if free[0] != free[1]:
        raise _out_of_step("it is at another place in its text")


def _out_of_step(why: str) -> CapabilityError:
    return CapabilityError(
        f"The row without the conditions cannot go beside the other: {why}.",
        "sampling.guidance_drops and the layout",
        "Leave out something else; pace: ratio cannot be guided by what stands in a prompt.",
    )
