"""Leaving conditions out now and then, so that a model also knows to speak without them.

The public precedent is RWKVTTS's ``drop_prompt_audio_rate`` (data/utils/llm_dataset.py), which
leaves out a prompt's text and codes together, for a whole batch at once. Here every utterance is
decided by itself, and every condition too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from random import Random

from wishbone.core.contract.errors import ConfigError, DataError
from wishbone.core.contract.layout import Layout, Positions, Prompt, Sample
from wishbone.core.contract.session import LayoutSession
from wishbone.core.contract.text import TextSpace
from wishbone.core.data.tokens import TokenCorpus
from wishbone.core.speak.guidance import blanked, check_conditions, sample_without


@dataclass
class Drop:
    """Probabilities with which an utterance is shown without something, each independent.

    What each means stands in ``wishbone.core.speak.guidance``.
    """

    text: float = 0.0
    """What is said."""
    prompt: float = 0.0
    """What was said before, text and codes together, as RWKVTTS does (0.5 in its script)."""
    prompt_text: float = 0.0
    """The text of what was said before."""
    prompt_audio: float = 0.0
    """The codes of what was said before."""
    speaker: float = 0.0
    """Who speaks."""
    instruct: float = 0.0
    """How to speak."""

    def conditions(self) -> tuple[str, ...]:
        """Names of ``guidance.CONDITIONS`` that are left out at all."""
        return _names([name for name, chance in asdict(self).items() if chance > 0])

    def chosen(self, random: Random) -> tuple[str, ...]:
        """The conditions left out this time.

        One number is drawn for each field in their order, so no probability changes what another
        one decides.
        """
        drawn = {name: random.random() < chance for name, chance in asdict(self).items()}
        return _names([name for name, out in drawn.items() if out])


def _names(fields: list[str]) -> tuple[str, ...]:
    both = ("prompt_text", "prompt_audio")
    return tuple(dict.fromkeys(n for f in fields for n in (both if f == "prompt" else (f,))))


class Dropping(Layout):
    """A layout whose training samples lack something now and then; all else is the layout's."""

    def __init__(self, layout: Layout, drop: Drop, space: TextSpace) -> None:
        self._layout, self._drop, self._space = layout, drop, space
        self.tables, self.extra = layout.tables, layout.extra
        self.alternates, self.conditions = layout.alternates, layout.conditions
        self.instruct_alone = layout.instruct_alone

    def train(self, sample: Sample, random: Random) -> Positions:
        """As the layout's, whose own choices are the same with and without dropping."""
        state = random.getstate()
        dropped = self._drop.chosen(Random(f"drop {random.random()}"))
        random.setstate(state)
        return self._layout.train(sample_without(sample, dropped, self._space), random)

    def start(self, prompt: Prompt) -> LayoutSession:
        """The layout's."""
        return self._layout.start(prompt)


def dropping(drop: Drop, layout: Layout, space: TextSpace, corpus: TokenCorpus) -> Layout:
    """``layout`` for training; itself where nothing is ever left out.

    Raises ``ConfigError`` for a probability that is none and for what the layout cannot do without,
    ``DataError`` for a condition that no utterance of the corpus has.
    """
    for name, chance in asdict(drop).items():
        if not 0 <= chance <= 1:
            raise ConfigError(
                f"drop.{name} is {chance}, which is no probability.",
                "the training recipe",
                "Write a number from 0 to 1.",
            )
    wanted = drop.conditions()
    if not wanted:
        return layout
    check_conditions(wanted, layout, "drop of the training recipe")
    if "text" in wanted:
        blanked((), space)
    prompts = corpus.prompt is not None and len(corpus.prompt.values) > 0
    missing = {
        "prompt_text": not prompts and "'wishbone data join --prompt' makes utterances with one",
        "prompt_audio": not prompts and "'wishbone data join --prompt' makes utterances with one",
        "instruct": corpus.instruct is None and "give token data with a column 'instruct'",
    }
    for name in wanted:
        if missing.get(name):
            raise DataError(
                f"No utterance of the corpus has what 'drop.{name}' would leave out.",
                str(corpus.files[0].parent if corpus.files else "the corpus"),
                f"Set it to 0, or {missing[name]}.",
            )
    return Dropping(layout, drop, space)
