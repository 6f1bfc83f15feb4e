"""Guided generation: a second batch row goes without some of the conditioning.

Classifier-free guidance (Ho and Salimans, arXiv 2207.12598, equation 6 with s = 1 + w) asks one
model twice at every step, with all of the conditioning (c) and with some of it left out (u), and
draws one id from ::

    logits = u + s (c - u)

s = 1 is plain decoding, for which no second row is made; s = 0 is the second row alone; more than
1 exaggerates what the condition changes. Both rows are fed what was drawn; they are in
``wishbone.core.speak.request_rows``. A model is trained for it with
``wishbone.core.train.condition_dropout``; ``core/train/README.md`` has the commands.

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

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import CapabilityError, ConfigError, did_you_mean
from wishbone.core.contract.layout import Layout, Prompt, Sample
from wishbone.core.contract.text import TextSpace
from wishbone.core.model.sampling import Sampling
from wishbone.core.model.speech_lm import prefix
from wishbone.core.model.state_batch import check_masked_rows
from wishbone.core.speak.request_rows import Follower, GuidedRows
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

    def rows(self, system: System, prompt: Prompt, prompt_state: State) -> GuidedRows:
        """Put a row without the conditions beside the request's own; ``prompt_state`` is its state.

        Raises ``CapabilityError`` for a backbone that cannot hold both in one batch.
        """
        reduced = prompt_without(prompt, self.drops)
        second = prompt_state if reduced == prompt else self._reduced_state(system, reduced)
        reduce_text = list
        if "text" in self.drops:
            reduce_text = partial(blanked, space=system.tokenizer.space)
        follower = Follower(system.layout, reduced, reduce_text)
        return GuidedRows(system.model.rows([prompt_state, second]), follower, self.scale)

    def _reduced_state(self, system: System, reduced: Prompt) -> State:
        """Compute the second row's state after its prompt, once for all utterances."""
        if self._reduced is None or self._reduced[0] != reduced:
            self._reduced = reduced, prefix(system.model, system.layout, reduced)
        return self._reduced[1]
