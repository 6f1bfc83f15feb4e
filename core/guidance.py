"""Guided generation: a second stream says what the model would say without a condition.

Classifier-free guidance (Ho and Salimans, arXiv 2207.12598, equation 6 with s = 1 + w) asks one
model twice at every step, with everything it was given (c) and with some of it left out (u), and
draws one id from ::

    logits = u + s (c - u)

s = 1 is plain decoding, for which no second stream is made; s = 0 is the second stream alone; more
than 1 exaggerates what the condition changes. Both streams are fed what was drawn. How a model is
trained for it is in ``wishbone.core.train.dropping``; ``core/train/README.md`` has the commands.

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

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from wishbone.core.errors import CapabilityError, ConfigError, did_you_mean
from wishbone.core.interfaces import (
    Draw,
    Emit,
    Feed,
    Head,
    Layout,
    Prompt,
    Sample,
    State,
    Stop,
    Tell,
    TextSpace,
    Turn,
    Wait,
)
from wishbone.core.pair import Pair, Position
from wishbone.core.pair import check as check_rows
from wishbone.core.prompt import prefix
from wishbone.core.sampling import Sampler, Sampling
from wishbone.core.system import System
from wishbone.core.training_record import learned
from wishbone.core.utterance import Utterance

CONDITIONS = ("text", "prompt_text", "prompt_audio", "speaker", "instruct")
"""What can be left out, in the order in which training decides it."""


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
            known = ", ".join(layout.conditions)
            raise ConfigError(
                f"'{name}' cannot be left out of the {type(layout).__name__} layout.",
                where,
                f"{did_you_mean(name, layout.conditions)} Its conditions: {known}.".strip(),
            )


def unlearned(system: System, scale: float | None) -> tuple[str, ...]:
    """What a guide was told to leave out though no file says that the weights ever did without."""
    sampling = system.sampling
    if (sampling.guidance if scale is None else scale) == 1:
        return ()
    known = learned(system.config).dropped or ()
    return tuple(name for name in sampling.guidance_drops if name not in known)


class Guide:
    """How a request is guided: by how much, and what the second stream does without."""

    def __init__(self, system: System, scale: float, drops: Collection[str]) -> None:
        """Raises ``ConfigError`` and ``CapabilityError`` for what the system cannot do."""
        check_conditions(drops, system.layout, "sampling.guidance_drops")
        if "text" in drops:
            blanked((), system.tokenizer.space)
        check_rows(system.model.backbone)
        head = system.model.head
        if not getattr(head, "independent", type(head).sample is Head.sample):
            raise CapabilityError(
                f"{type(head).__name__} draws the codebooks of a frame one after another, and only"
                " logits that are known together can be guided.",
                "guidance",
                "Leave guidance at 1, or use a head that has all logits at once.",
            )
        self.scale = scale
        self.drops = tuple(name for name in CONDITIONS if name in drops)
        self._kept: tuple[Prompt, State] | None = None

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
        """Whether the second stream has less than the first, with this prompt."""
        return "text" in self.drops or prompt_without(prompt, self.drops) != prompt

    def frames(
        self,
        system: System,
        pieces: Iterable[Sequence[int]],
        prompt: Prompt,
        sampler: Sampler,
        begin: State,
        utterance: Utterance,
    ) -> Iterator[tuple[int, ...]]:
        """As ``wishbone.core.pipeline.frames``, with the second stream beside the first.

        Only the first decides what may be drawn and when the utterance ends. Raises
        ``CapabilityError`` where the second would have to draw when the first does not.
        """
        other, pieces = prompt_without(prompt, self.drops), iter(pieces)
        streams = [_Stream(system.layout.start(each)) for each in (prompt, other)]
        first, second = streams
        pair = _pair(system, (begin, self._begin(system, prompt, other, begin)))
        sampler.forget()

        def more() -> None:
            piece = next(pieces, None)
            for stream in streams:
                stream.give(piece if stream is first else self._shown(piece, system))

        while not isinstance(action := first.next(more), Stop):
            match action:
                case Draw():
                    beside = second.until_draw(more)
                    if action.forced is None and any(stream.waiting for stream in streams):
                        pair.advance([stream.taken() for stream in streams])
                    both = action.whole == beside.whole
                    if both:
                        _check_step(action, beside)
                    logits = None if action.forced is not None else pair.logits()
                    if logits is not None:
                        logits = guided(*logits, self.scale) if both else logits[0]
                    drawn = sampler.draw_from(logits, action)
                    utterance.cut_words += action.cut
                    for stream in streams if both else (first,):
                        stream.drawn(drawn)
                case Emit(code):
                    utterance.codes.append(code)
                    yield code
                case Tell(global_codes):
                    utterance.global_codes = global_codes
        utterance.reason = action.reason

    def _begin(self, system: System, prompt: Prompt, other: Prompt, begin: State) -> State:
        """The second stream's state after its prompt."""
        if other == prompt:
            return begin
        if self._kept is None or self._kept[0] != other:
            self._kept = other, prefix(system, other)
        return self._kept[1]

    def _shown(self, ids: Sequence[int] | None, system: System) -> Sequence[int] | None:
        if ids is None or "text" not in self.drops:
            return ids
        return blanked(ids, system.tokenizer.space)


class _Stream:
    """A turn, and the positions it waits to have fed."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.waiting: list[Position] = []
        self._pending: Draw | None = None
        while isinstance(action := turn.next(), Feed):
            pass  # the state it begins with is the one after these
        self._held: object = action

    def next(self, more: Callable[[], None]) -> Draw | Emit | Tell | Stop:
        """The next action that is not for the backbone; ``more()`` is called for text."""
        while True:
            action, self._held = self._held or self._turn.next(), None
            match action:
                case Feed(positions):
                    self.waiting.extend(positions)
                case Wait():
                    more()
                case Draw() | Emit() | Tell() | Stop():
                    return action

    def until_draw(self, more: Callable[[], None]) -> Draw:
        """The draw it waits to be told of, over whatever it says before."""
        while self._pending is None:
            action = self.next(more)
            if isinstance(action, Stop):
                raise _out_of_step("it ends first")
            self._pending = action if isinstance(action, Draw) else None
        return self._pending

    def drawn(self, ids: tuple[int, ...]) -> None:
        """What was drawn for both."""
        self._pending = None
        self._turn.drawn(ids)

    def give(self, ids: Sequence[int] | None) -> None:
        """More text; None for its end."""
        self._turn.end_text() if ids is None else self._turn.give_text(ids)

    def taken(self) -> list[Position]:
        """What waits, to be fed now."""
        taken, self.waiting = self.waiting, []
        return taken


def _pair(system: System, states: Sequence[State]) -> Pair:
    """Two rows; a server's model has its own way to hold them."""
    make = getattr(system.model, "pair", None)
    return Pair(system.model, states) if make is None else make(states)


def _check_step(one: Draw, other: Draw) -> None:
    """The streams are at the same place where the same codebooks are free."""
    free = [
        [draw.of(q).forced is None for q in range(len(draw.each) or 1)] for draw in (one, other)
    ]
    if free[0] != free[1]:
        raise _out_of_step("it is at another place in its text")


def _out_of_step(why: str) -> CapabilityError:
    return CapabilityError(
        f"The stream without the conditions cannot go beside the other: {why}.",
        "sampling.guidance_drops and the layout",
        "Leave out something else; pace: ratio cannot be guided by what stands in a prompt.",
    )
