"""Guided generation: a second batch row goes without some of the conditioning.

Classifier-free guidance (Ho and Salimans, arXiv 2207.12598, equation 6 with s = 1 + w) asks one
model twice at every step, with all of the conditioning (c) and with some of it left out (u), and
draws one id from ::

    logits = u + s (c - u)

s = 1 is plain decoding, for which no second row is made; s = 0 is the second row alone; more than
1 exaggerates what the condition changes. Both rows are fed what was drawn. A model is trained for
it with ``wishbone.core.train.condition_dropout``; ``core/train/README.md`` has the commands.

Conditions that can be left out, in training and in the second row, each independent of the others:

=============  ==================================================================================
text           every id becomes the tokenizer's ``blank``; those that close words stay, because
               layouts count words by them
prompt_text    the ids of the speech before, or of the transcript of a voice's recording
prompt_audio   its codes
speaker        codes of the whole utterance, marker positions of speakers
instruct       the instruction, or properties
=============  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import CapabilityError, ConfigError, did_you_mean
from wishbone.core.contract.layout import Layout, Prompt, Sample
from wishbone.core.contract.session import Answer, Draw, Feed, NeedText, Position, Stop
from wishbone.core.contract.text import TextSpace
from wishbone.core.model.sampling import Pick, Sampling
from wishbone.core.model.speech_lm import BatchRows, begin_session, prefix
from wishbone.core.model.state_batch import check_masked_rows
from wishbone.core.system.system import System
from wishbone.core.weights.training_record import learned

CONDITIONS = ("text", "prompt_text", "prompt_audio", "speaker", "instruct")
"""Conditions that can be left out, in the order in which training decides it."""


def blanked(ids: Sequence[int], space: TextSpace) -> list[int]:
    """Blank ids in the place of ``ids``, as many and with as many words.

    Raises ``CapabilityError`` where the tokenizer has no blank.
    """
    if space.blank is None:
        raise CapabilityError(
            "The tokenizer has no id that could stand in the place of text.",
            "TextSpace.blank of the system's tokenizer",
            "Leave out another condition, or name an id that no text has.",
        )
    return [row if row in space.word_ends else space.blank for row in ids]


def prompt_without(prompt: Prompt, dropped: Collection[str]) -> Prompt:
    """``prompt`` without the conditions ``dropped``."""
    if "instruct" in dropped:
        prompt = replace(prompt, instruct=())
    if "prompt_text" in dropped:
        prompt = replace(prompt, text=(), word_ends=())
    if "prompt_audio" in dropped:
        prompt = replace(prompt, speech=(), word_ends=())
    if "speaker" in dropped:
        prompt = replace(prompt, global_codes=(), anonymous=True)
    return prompt


def sample_without(sample: Sample, dropped: Collection[str], space: TextSpace) -> Sample:
    """``sample`` without the conditions ``dropped``, to train on in its place."""
    if sample.prompt is not None:
        sample = replace(sample, prompt=prompt_without(sample.prompt, dropped))
    if "text" in dropped:
        sample = replace(sample, text=blanked(sample.text, space))
    if "instruct" in dropped:
        sample = replace(sample, instruct=())
    if "speaker" in dropped:
        sample = replace(sample, global_codes=(), anonymous=True)
    return sample


def check_conditions(names: Iterable[str], layout: Layout, where: str) -> None:
    """Raise ``ConfigError`` for a name that is not among the conditions of this layout."""
    for name in names:
        if name not in layout.conditions:
            choices = ", ".join(layout.conditions)
            raise ConfigError(
                f"'{name}' cannot be left out of the {type(layout).__name__} layout.",
                where,
                f"{did_you_mean(name, layout.conditions)} Its conditions: {choices}.".strip(),
            )


def unlearned(system: System, scale: float | None) -> tuple[str, ...]:
    """Name the conditions that a guide leaves out and the weights were not trained without."""
    sampling = system.sampling
    if (sampling.guidance if scale is None else scale) == 1:
        return ()
    recorded = learned(system.config).dropped or ()
    return tuple(name for name in sampling.guidance_drops if name not in recorded)


class Guide:
    """The guidance of a request: its scale, and the conditions the second row does without."""

    def __init__(self, system: System, scale: float, drops: Collection[str]) -> None:
        """Raises ``ConfigError`` and ``CapabilityError`` for what the system cannot do."""
        check_conditions(drops, system.layout, "sampling.guidance_drops")
        if "text" in drops:
            blanked((), system.tokenizer.space)
        check_masked_rows(system.model.backbone)
        head = system.model.head
        if not head.independent:
            raise CapabilityError(
                f"{type(head).__name__} draws the codebooks of a frame one after another, and only"
                " logits that are known together can be guided.",
                "guidance",
                "Leave guidance at 1, or use a head that has all logits at once.",
            )
        self.scale = scale
        self.drops = tuple(name for name in CONDITIONS if name in drops)
        self._reduced: tuple[Prompt, State] | None = None

    @classmethod
    def of(cls, system: System, sampling: Sampling) -> Guide:
        """Make the guide of a request whose scale is not 1.

        Without ``guidance_drops`` it leaves out the conditions that were dropped in training.
        Raises ``CapabilityError`` where none was: the second row of such a model is not worth a
        step.
        """
        drops = sampling.guidance_drops or learned(system.config).dropped or ()
        if drops:
            return cls(system, sampling.guidance, drops)
        raise CapabilityError(
            "The model was never trained with a condition left out, so nothing can guide it.",
            "sampling.guidance, and provenance.json beside the system's weights",
            "Train with 'drop:' (see 'wishbone train guidance'), leave guidance at 1, or say"
            " in sampling.guidance_drops what to leave out all the same.",
        )

    def differs(self, prompt: Prompt) -> bool:
        """Tell whether the second row has less than the first, with this prompt."""
        return "text" in self.drops or prompt_without(prompt, self.drops) != prompt

    def rows(
        self,
        system: System,
        prompt: Prompt,
        prompt_state: State,
        text_ids: Iterator[Sequence[int]],
    ) -> GuidedRows:
        """Put a row without the conditions beside the request's own.

        ``prompt_state`` is the request's state, ``text_ids`` its text, as it arrives. Raises
        ``CapabilityError`` for a backbone that cannot hold both in one batch.
        """
        reduced = prompt_without(prompt, self.drops)
        second = prompt_state if reduced == prompt else self._reduced_state(system, reduced)
        if "text" in self.drops:
            text_ids = map(partial(blanked, space=system.tokenizer.space), text_ids)
        follower = Follower(system.layout, reduced, text_ids)
        return GuidedRows(system.model.rows([prompt_state, second]), follower, self.scale)

    def _reduced_state(self, system: System, reduced: Prompt) -> State:
        """Compute the second row's state after its prompt, once for all utterances."""
        if self._reduced is None or self._reduced[0] != reduced:
            self._reduced = reduced, prefix(system.model, system.layout, reduced)
        return self._reduced[1]


class GuidedRows:
    """The row of a request and the one without its conditions: two rows of logits become one.

    Only the first row's session decides what may be drawn and when the utterance ends.
    """

    def __init__(self, batch: BatchRows, follower: Follower, scale: float) -> None:
        self.follower = follower
        self._batch = batch
        self._scale = scale

    def draw(self, positions: Sequence[Position], pick: Pick) -> tuple[int, ...]:
        """Put the positions of both rows through, and draw from both where ``follower`` met."""
        waiting, self.follower.waiting = self.follower.waiting, []
        if positions or waiting:
            self._batch.advance([positions, waiting])
        logits = self._batch.logits()  # [2, Q, X]
        combined = logits[0]  # [Q, X]
        if self.follower.together:
            combined = guided(logits[0], logits[1], self._scale)  # [Q, X]
        return tuple(pick(codebook, q) for q, codebook in enumerate(combined))


class Follower:
    """The session of the second row, which goes from draw to draw beside the request's own."""

    def __init__(self, layout: Layout, prompt: Prompt, text_ids: Iterator[Sequence[int]]) -> None:
        """``text_ids`` is the text that the second row reads, as it arrives."""
        self.waiting: list[Position] = []
        """Positions to feed before the next draw."""
        self.together: bool
        """True where both rows draw the same ids; ``meet`` tells."""
        self._session, _, self._action = begin_session(layout, prompt)
        self._text_ids = text_ids

    def meet(self, action: Draw) -> None:
        """Go to the draw beside the first row's ``action``.

        It takes no part in a draw of the speaker that it does without. Raises
        ``CapabilityError`` where it would have to draw when the first does not.
        """
        second = self._next_draw()
        self.together = action.utterance_level == second.utterance_level
        if self.together:
            _check_same_place(action, second)

    def drawn(self, ids: Sequence[int]) -> None:
        """Take in the ids that were drawn for both rows, if it takes part."""
        if self.together:
            self._action = self._session.next(ids)

    def _next_draw(self) -> Draw:
        """Go to the draw it needs ids for."""
        while not isinstance(self._action, Draw):
            answer: Answer = None
            match self._action:
                case Feed(positions):
                    self.waiting.extend(positions)
                case NeedText():
                    answer = next(self._text_ids, None)
                case Stop():
                    raise _out_of_step("it ends first")
            self._action = self._session.next(answer)
        return self._action


def guided(conditioned: Tensor, unconditioned: Tensor, scale: float) -> Tensor:
    """Logits [Q, X] of both rows, c and u, with the scale s -> u + s (c - u)."""
    return unconditioned + scale * (conditioned - unconditioned)  # [Q, X]


def _check_same_place(first: Draw, second: Draw) -> None:
    """Raise ``CapabilityError`` unless the same codebooks are free in both rows."""
    free = [
        [rules.forced is None for rules in draw.per_codebook or (draw,)] for draw in (first, second)
    ]
    if free[0] != free[1]:
        raise _out_of_step("it is at another place in its text")


def _out_of_step(why: str) -> CapabilityError:
    return CapabilityError(
        f"The row without the conditions cannot go beside the other: {why}.",
        "sampling.guidance_drops and the layout",
        "Leave out something else; pace: ratio cannot be guided by what stands in a prompt.",
    )
