"""Guided generation: a second stream says what the model would say without a condition.

Classifier-free guidance (Ho and Salimans, arXiv 2207.12598, equation 6 with s = 1 + w) asks one
model twice at every step, with everything it was given (c) and with some of it left out (u), and
draws one id from ::

    logits = u + s (c - u)

s = 1 is plain decoding, for which no second stream is made; s = 0 is the second stream alone; more
than 1 exaggerates what the condition changes. Both streams are fed what was drawn. How a model is
trained for it is in ``wishbone.core.train.condition_dropout``; ``core/train/README.md`` has the commands.

What can be left out, in training and in the second stream, one independent of the other:

=============  ==================================================================================
text           every id becomes the tokenizer's ``blank``; those that close words stay, because
               layouts count words by them
prompt_text    the ids of what was spoken before, or of what a voice's recording says
prompt_audio   its codes
speaker        codes of the whole utterance, marks of speakers
instruct       the instruction, or properties
=============  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from torch import Tensor

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import CapabilityError, ConfigError, did_you_mean
from wishbone.core.contract.layout import Layout, Prompt, Sample
from wishbone.core.contract.session import Action, Draw, Feed, NeedText, NextText, Position, Stop
from wishbone.core.contract.text import TextSpace
from wishbone.core.model.sampling import Pick, Sampler, Sampling
from wishbone.core.model.speech_lm import BatchRows
from wishbone.core.model.state_batch import check_masked_rows
from wishbone.core.speak.prompt import begin_session, prefix
from wishbone.core.system.system import System
from wishbone.core.weights.training_record import learned

CONDITIONS = ("text", "prompt_text", "prompt_audio", "speaker", "instruct")
"""Conditions that can be left out, in the order in which training decides it."""


def guided(conditioned: Tensor, unconditioned: Tensor, scale: float) -> Tensor:
    """Logits [Q, X] of both streams -> u + s (c - u)."""
    return unconditioned + scale * (conditioned - unconditioned)


def blanked(ids: Sequence[int], space: TextSpace) -> list[int]:
    """Ids that say nothing, as many and with as many words. ``CapabilityError`` without a blank."""
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
    """``sample`` without the conditions ``dropped``: what training shows instead of it."""
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
    """Raise ``ConfigError`` for what is no condition, or none of this layout."""
    for name in names:
        if name not in layout.conditions:
            choices = ", ".join(layout.conditions)
            raise ConfigError(
                f"'{name}' cannot be left out of the {type(layout).__name__} layout.",
                where,
                f"{did_you_mean(name, layout.conditions)} Its conditions: {choices}.".strip(),
            )


def unlearned(system: System, scale: float | None) -> tuple[str, ...]:
    """Name conditions that a guide leaves out and no file says the weights ever did without."""
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
    def of(cls, system: System, sampling: Sampling) -> Guide | None:
        """The guide of a request; None where it is plain.

        Without ``guidance_drops`` it leaves out what the weights learned to do without. Raises
        ``CapabilityError`` where they learned nothing of the kind: the second stream of such a
        model says nothing that is worth a step.
        """
        if sampling.guidance == 1:
            return None
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

    def rows(self, system: System, prompt: Prompt, begin: State) -> GuidedRows:
        """Put a row without the conditions beside the request's own, which goes on from ``begin``.

        Raises ``CapabilityError`` for a backbone that cannot hold both in one batch.
        """
        reduced = prompt_without(prompt, self.drops)
        second = begin if reduced == prompt else self._reduced_state(system, reduced)
        blank_space = system.tokenizer.space if "text" in self.drops else None
        follower = Follower(system.layout, reduced, blank_space)
        return GuidedRows(system.model.rows([begin, second]), follower, self.scale)

    def _reduced_state(self, system: System, reduced: Prompt) -> State:
        """Compute the second row's state after its prompt, once for all utterances."""
        if self._reduced is None or self._reduced[0] != reduced:
            self._reduced = reduced, prefix(system.model, system.layout, reduced)
        return self._reduced[1]


class GuidedRows:
    """A request's row and the one without the conditions: two rows of logits become one.

    Stands in the decoding loop, ``wishbone.core.speak.pipeline.frames``, where a plain request has one
    row. Only the first row's session decides what may be drawn and when the utterance ends.
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
        """Feed what waits in both rows, unless the id is forced, and draw one id for both.

        The second row takes no part in a draw of the speaker that it does without. Raises
        ``CapabilityError`` where it would have to draw when the first does not.
        """
        follower = self._follower
        beside = follower.next_draw(next_text)
        if action.forced is None and (self._waiting or follower.waiting):
            self._batch.advance([self._waiting, follower.waiting])
            self._waiting, follower.waiting = [], []
        together = action.utterance_level == beside.utterance_level
        if together:
            _check_step(action, beside)

        def sample(pick: Pick) -> tuple[int, ...]:
            logits = self._batch.logits()  # [2, Q, X]
            combined = guided(*logits, self._scale) if together else logits[0]  # [Q, X]
            return tuple(pick(codebook, q) for q, codebook in enumerate(combined))

        ids = sampler.draw(action, sample)
        if together:
            follower.drawn(ids)
        return ids


class Follower:
    """The session of the second row, which goes from draw to draw beside the request's own."""

    def __init__(self, layout: Layout, prompt: Prompt, blank_space: TextSpace | None) -> None:
        """``blank_space`` is the space whose blank stands for all text; None shows the text."""
        self.waiting: list[Position] = []
        """Positions to feed before the next draw."""
        self._session, _, action = begin_session(layout, prompt)
        self._action: Action | None = action
        self._blank_space = blank_space
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
        """Take in more text, or as many blanks."""
        self._session.give_text(
            ids if self._blank_space is None else blanked(ids, self._blank_space)
        )

    def end_text(self) -> None:
        """Take in that no more text will arrive."""
        self._session.end_text()


def _check_step(one: Draw, other: Draw) -> None:
    """The streams are at the same place where the same codebooks are free."""
    free = [
        [draw.of(q).forced is None for q in range(len(draw.per_codebook) or 1)]
        for draw in (one, other)
    ]
    if free[0] != free[1]:
        raise _out_of_step("it is at another place in its text")


def _out_of_step(why: str) -> CapabilityError:
    return CapabilityError(
        f"The stream without the conditions cannot go beside the other: {why}.",
        "sampling.guidance_drops and the layout",
        "Leave out something else; pace: ratio cannot be guided by what stands in a prompt.",
    )
