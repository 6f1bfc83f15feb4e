"""Condition dropout: training without some condition now and then, which guidance needs later.

Every utterance and every condition is decided by itself. Conditions are defined in
``wishbone.core.speak.guidance``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from random import Random

from wishbone.core.contract.errors import ConfigError, DataError
from wishbone.core.contract.layout import Layout, Positions, Prompt, Sample
from wishbone.core.contract.part import Share
from wishbone.core.contract.session import LayoutSession
from wishbone.core.contract.text import TextSpace
from wishbone.core.data.tokens import TokenCorpus
from wishbone.core.speak.guidance import blanked, check_conditions, sample_without


@dataclass
class Drop:
    """Probabilities with which an utterance is laid out without a condition, each independent."""

    text: Share = 0.0
    """The text that is spoken."""
    prompt: Share = 0.0
    """Text and codes of the prompt together, the utterance before this one."""
    prompt_text: Share = 0.0
    """The prompt's text."""
    prompt_audio: Share = 0.0
    """The prompt's codes."""
    speaker: Share = 0.0
    """The speaker."""
    instruct: Share = 0.0
    """The instruction about the manner of speaking."""

    def conditions(self) -> tuple[str, ...]:
        """Names of ``guidance.CONDITIONS`` that are ever left out."""
        return _names([name for name, chance in asdict(self).items() if chance > 0])

    def draw(self, random: Random) -> tuple[str, ...]:
        """The conditions left out this time.

        One number is drawn for each field in their order, so no probability changes what another
        one decides.
        """
        left_out = {name: random.random() < chance for name, chance in asdict(self).items()}
        return _names([name for name, out in left_out.items() if out])


def _names(fields: list[str]) -> tuple[str, ...]:
    """Names of conditions for names of fields: ``prompt`` is two conditions."""
    both = ("prompt_text", "prompt_audio")
    return tuple(dict.fromkeys(n for f in fields for n in (both if f == "prompt" else (f,))))


class DroppingLayout(Layout):
    """A layout whose training samples lack a condition now and then; all else is the layout's."""

    def __init__(self, layout: Layout, drop: Drop, space: TextSpace) -> None:
        self._layout, self._drop, self._space = layout, drop, space
        self.tables, self.extra = layout.tables, layout.extra
        self.alternates, self.conditions = layout.alternates, layout.conditions
        self.instruct_alone = layout.instruct_alone

    def train(self, sample: Sample, random: Random) -> Positions:
        """As the layout's, whose own choices are the same with and without dropping."""
        state = random.getstate()
        dropped = self._drop.draw(Random(f"drop {random.random()}"))
        random.setstate(state)
        return self._layout.train(sample_without(sample, dropped, self._space), random)

    def start(self, prompt: Prompt) -> LayoutSession:
        """The layout's."""
        return self._layout.start(prompt)


def dropping(drop: Drop, layout: Layout, space: TextSpace, corpus: TokenCorpus) -> Layout:
    """``layout`` for training; itself where nothing is ever left out.

    Raises ``ConfigError`` for a number that is no probability and for a condition that the layout
    needs, ``DataError`` for a condition that no utterance of the corpus has.
    """
    for name, chance in asdict(drop).items():
        if not 0 <= chance <= 1:
            raise ConfigError(
                f"drop.{name} is {chance}, which is no probability.",
                "the training recipe",
                "Write a number from 0 to 1.",
            )
    conditions = drop.conditions()
    if not conditions:
        return layout
    check_conditions(conditions, layout, "drop of the training recipe")
    if "text" in conditions:
        blanked((), space)
    prompts = corpus.prompt is not None and bool(corpus.prompt.lengths().any())
    missing = {
        "prompt_text": not prompts and "'wishbone data join --prompt' makes utterances with one",
        "prompt_audio": not prompts and "'wishbone data join --prompt' makes utterances with one",
        "instruct": corpus.instruct is None and "give token data with a column 'instruct'",
    }
    for name in conditions:
        if missing.get(name):
            raise DataError(
                f"No utterance of the corpus has what 'drop.{name}' would leave out.",
                str(corpus.files[0].parent if corpus.files else "the corpus"),
                f"Set it to 0, or {missing[name]}.",
            )
    return DroppingLayout(layout, drop, space)
