"""Fields, ids and words of the cosyvoice2 layout, for training and speaking alike.

``adapters/cosyvoice2.py`` is the page to read first: it draws the sequences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import CapabilityError, ConfigError, DataError
from wishbone.core.contract.part import Count, NonNegative, Positive, Share
from wishbone.core.contract.text import TextSpace, split_words

SPEECH, TEXT, MARKS = 0, 1, 2
"""Indices into ``CosyVoice2.tables``."""

SOS, TASK = 0, 1
"""Rows of the table of marks."""

LAST_WORD_RATIO = 1.3
"""Codes per id below which a sentence's last word is no speech: of the 34 089 that the bundled
systems learned from, 1 % have fewer than 1.33 (the words inside sentences 0.67)."""

LAST_WORD_LONGER = 1.7
"""Times that an id of a sentence's last word takes as long as one of another: 2.33 codes beside 1.4
(medians of the same sentences), the breath behind it included."""

END_OF_PROMPT = "<|endofprompt|>"
"""Closes an instruction; the tokenizer must know it as a special."""


@dataclass
class CosyVoice2Config:
    """Schema of the slot ``layout: {name: cosyvoice2, ...}``."""

    form: str = "unistream"
    """Form of a request: "unistream" reads all text first, "bistream" alternates."""
    pace: str = "ratio"
    """Rule that cuts a bistream sequence: "ratio" a fixed mix, "words" the ends of words."""
    mix: list[int] = field(default_factory=lambda: [5, 15])
    """Ids of text and codes of speech in one block, under pace "ratio"."""
    lookahead_words: Count = 2
    """Words of text in front of the word being spoken, under pace "words"."""
    bistream_probability: Share = 0.5
    """Share of the training samples laid out as bistream; the rest are unistream."""
    bistream_min_ratio: NonNegative = 3.0
    """Under pace "ratio", bistream needs more codes per id of text than this."""
    min_code_ratio: NonNegative = 2.0
    """Codes per id of text before the end may be drawn, where no words are counted."""
    max_code_ratio: Positive = 20.0
    """Codes per id of text after which speech is cut, where no words are counted."""
    min_codes_per_word: Count = 1
    """Codes of a word before the next word may be asked for, under pace "words"."""
    word_base: Count = 15
    """A word is cut after this many codes, ..."""
    word_per_id: Count = 6
    """... plus this many for each of its ids."""
    codes_per_id: NonNegative = 0.0
    """Codes of an id of text on average, as measured; a voice's transcript is held against it."""
    lone_word: str = "plain"
    """Text of one word under pace "words": "plain" as in training, or "again", read twice and
    spoken once, for models that learned from no such text."""
    fill: bool = True
    """True where the head has FILL and the unused id before it; RWKVTTS's models have only the
    end, so they cannot alternate."""
    instruct: str = "alone"
    """Place of an instruction: "alone" in the place of what a voice's recording says, as in
    CosyVoice2, or "beside" it, as in RWKVTTS."""
    parity: str = "right"
    """"right" as in training; "upstream" repeats the public code with its flaws."""


@dataclass(frozen=True)
class SequenceRules:
    """The layout's own ids behind the codes, and its rules for words and instructions."""

    config: CosyVoice2Config
    text: TextSpace
    codes: CodeSpace

    @property
    def eos(self) -> int:
        """Id that ends an utterance."""
        return self.codes.size

    @property
    def fill(self) -> int:
        """Id that asks for more text."""
        return self.codes.size + 2

    @property
    def meaningless(self) -> tuple[int, ...]:
        """Ids that the public model has and no training predicts."""
        return (self.codes.size + 1,)

    @property
    def extra(self) -> int:
        """Number of ids behind the codes."""
        return 3 if self.config.fill else 1

    @property
    def sos(self) -> tuple[int, int]:
        """Table and row of the first position."""
        return MARKS, SOS

    @property
    def task(self) -> tuple[int, int]:
        """Table and row of the position that begins the last codes."""
        return MARKS, TASK

    @property
    def tables(self) -> dict[str, int]:
        """Tables of a sequence -> their rows, in order."""
        rows = {"speech": self.codes.size + self.extra, "text": self.text.vocabulary}
        return rows | {"marks": 2}

    @property
    def reads_instruct_first(self) -> bool:
        """True where the public bistream code reads an instruction before it counts blocks."""
        return False

    def fewest_codes(self, ids: Sequence[int]) -> int:
        """Fewest codes of a text for which it counts as spoken."""
        if self.config.pace == "ratio" or self.config.form == "unistream":
            return int(self.config.min_code_ratio * len(ids))
        if len(self.words(ids)) > 1:
            return self.config.min_codes_per_word * len(self.words(ids))
        return max(self.config.min_codes_per_word, math.ceil(LAST_WORD_RATIO * len(ids)))

    def words(self, ids: Sequence[int]) -> list[tuple[int, ...]]:
        """Split a text into words, each with the id that closes it."""
        return split_words(ids, self.text.word_ends)

    def word_ends(
        self, words: Sequence[Sequence[int]], frames: int, ends: Sequence[int]
    ) -> list[int]:
        """Ends in code frames, never falling, the last one ``frames``; estimated where missing."""
        if not ends:
            return share_frames(words, frames)
        if len(ends) != len(words):
            raise DataError(
                f"The text has {len(words)} words, but {len(ends)} ends of words are given.",
                where="a sample laid out by the cosyvoice2 layout with pace: words",
                do="Tokenise the corpus again with the tokenizer that this system uses.",
            )
        clipped, last = [], 0
        for end in ends[:-1]:
            last = min(max(last, end), frames)
            clipped.append(last)
        return [*clipped, frames]

    def close_instruct(self, ids: Sequence[int]) -> list[int]:
        """Close an instruction with its marker, which is added only if it is missing.

        Raises ``CapabilityError`` when the tokenizer has no such marker.
        """
        if not ids:
            return []
        marker = self.text.specials.get(END_OF_PROMPT)
        if marker is None:
            raise CapabilityError(
                f"The tokenizer has no id for {END_OF_PROMPT}, so an instruction would be spoken.",
                where="Prompt.instruct given to the cosyvoice2 layout",
                do="Leave the instruction out, or use a tokenizer with this special.",
            )
        return list(ids) if marker in ids else [*ids, marker]


def share_frames(words: Sequence[Sequence[int]], frames: int) -> list[int]:
    """Estimate ends of words in code frames where none were measured: ids take equally long."""
    total = sum(len(word) for word in words)
    ends, count = [], 0
    for word in words:
        count += len(word)
        ends.append(round(frames * count / total))
    return ends


def check_config(config: CosyVoice2Config, text: TextSpace, codes: CodeSpace) -> None:
    """Raise ``ConfigError`` for the first contradiction."""

    def refuse(what: str, key: str, do: str) -> None:
        raise ConfigError(what, where=f"layout.{key} of the cosyvoice2 layout", do=do)

    for key, legal in (
        ("form", ("unistream", "bistream")),
        ("pace", ("ratio", "words")),
        ("parity", ("right", "upstream")),
        ("instruct", ("alone", "beside")),
        ("lone_word", ("plain", "again")),
    ):
        if getattr(config, key) not in legal:
            choices = " or ".join(legal)
            refuse(f"{getattr(config, key)!r} is not a {key}.", key, f"Write {choices}.")
    if len(config.mix) != 2 or min(config.mix) < 1:
        refuse(
            f"The mix {list(config.mix)} is not two positive numbers.",
            "mix",
            "Write ids of text and codes of speech in one block, such as [5, 15].",
        )
    if config.bistream_min_ratio * config.mix[0] < config.mix[1]:
        refuse(
            f"With {config.bistream_min_ratio:g} codes per id a block of {config.mix[0]} ids"
            f" may lack its {config.mix[1]} codes.",
            "bistream_min_ratio",
            f"Use at least {config.mix[1] / config.mix[0]:g}.",
        )
    if config.form == "bistream" and not config.fill:
        refuse(
            "A model without FILL cannot ask for more text, so it cannot alternate.",
            "form",
            "Use form: unistream, or a model with fill: true.",
        )
    if config.lookahead_words < 0:
        refuse("The number of words ahead is negative.", "lookahead_words", "Use 0 or more.")
    if config.pace == "words" and not text.word_ends:
        refuse(
            "The tokenizer cannot tell words from ids, so speech cannot be paced by words.",
            "pace",
            "Use pace: ratio, or a tokenizer that marks the ends of words.",
        )
    if codes.codebooks != 1:
        refuse(
            f"The codec has {codes.codebooks} codebooks, and this layout holds one.",
            "name",
            "Use a codec of one codebook, or another layout.",
        )
