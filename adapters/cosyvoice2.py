"""The CosyVoice2 layout: where text and speech stand in one sequence, and what is predicted.

Three forms share one class.

Unistream reads everything first::

    in      SOS t0 t1 t2 TASK s0 s1 s2 s3
    target   _  _  _  _  s0   s1 s2 s3 EOS

Bistream with ``pace: ratio`` alternates, 5 ids of text and 15 codes of speech, so that speech can
begin before the text is complete; FILL, which is never fed, says "give me more text"::

    in      SOS t0..t3 t4 s0..s13 s14  t5 t6 TASK s15 ... s31
    target   _  _ .. _ s0 s1..s14 FILL _  _  s15  s16 ... EOS

Bistream with ``pace: words`` cuts at the ends of words instead: ``lookahead_words`` words stand in
front of the word that is spoken, and the model learns when to ask for the next one. The first two
forms are those of CosyVoice2 (arXiv 2412.10117 section 2.3; ``prepare_lm_input_target`` in
cosyvoice/llm/llm.py); the third is this project's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

import torch

from wishbone.adapters.cosyvoice2_session import CosyVoice2Session, close_instruct
from wishbone.core.errors import ConfigError, DataError
from wishbone.core.interfaces import IGNORE, CodeSpace, Layout, Positions, Prompt, Sample, TextSpace
from wishbone.core.session import LayoutSession

SPEECH, TEXT, MARKS = 0, 1, 2
"""Indices into ``CosyVoice2.tables``."""

SOS, TASK = 0, 1
"""Rows of the table of marks."""


def split_words(ids: Sequence[int], closing: frozenset[int]) -> list[tuple[int, ...]]:
    """Cut ids after every id that closes a word; what follows the last of them is a word too."""
    words, begin = [], 0
    for index, token in enumerate(ids, start=1):
        if token in closing:
            words.append(tuple(ids[begin:index]))
            begin = index
    if begin < len(ids):
        words.append(tuple(ids[begin:]))
    return words


def share_frames(words: Sequence[Sequence[int]], frames: int) -> list[int]:
    """Ends of words in code frames when nobody measured them: each id takes equally long."""
    total = sum(len(word) for word in words)
    ends, count = [], 0
    for word in words:
        count += len(word)
        ends.append(round(frames * count / total))
    return ends


class Line:
    """A sequence under construction: positions in order, and the target of the last one."""

    def __init__(self) -> None:
        self.table: list[int] = []
        self.ids: list[int] = []
        self.targets: list[int] = []

    def put(self, table: int, ids: Iterable[int]) -> None:
        """Append positions that predict nothing yet."""
        for row in ids:
            self.table.append(table)
            self.ids.append(row)
            self.targets.append(IGNORE)

    def expect(self, target: int) -> None:
        """What the head must say at the last position."""
        self.targets[-1] = target

    def speak(self, codes: Iterable[int]) -> None:
        """Append codes, each predicted at the position before it."""
        for code in codes:
            self.expect(code)
            self.put(SPEECH, (code,))

    def hush(self, given: int, codes: int) -> None:
        """Predict nothing in front of the code that follows the first ``given`` codes."""
        spoken = [at for at, target in enumerate(self.targets) if 0 <= target < codes]
        end = spoken[given] if given < len(spoken) else len(self.targets)
        self.targets[:end] = [IGNORE] * end

    def positions(self) -> Positions:
        """The sequence as tensors [T], [T, 1], [T, 1]."""
        return Positions(
            table=torch.tensor(self.table),
            ids=torch.tensor(self.ids)[:, None],
            targets=torch.tensor(self.targets)[:, None],
        )


class CosyVoice2(Layout):
    """SOS, text, TASK, speech, EOS; in one piece or alternating. One codebook.

    Raises ``ConfigError`` from the constructor when the fields contradict each other or the
    tokenizer and codec at hand.
    """

    @dataclass
    class Config:
        form: str = "unistream"
        """How a request is spoken: "unistream" reads all text first, "bistream" alternates."""
        pace: str = "ratio"
        """What cuts a bistream sequence: "ratio" a fixed mix, "words" the ends of words."""
        mix: list[int] = field(default_factory=lambda: [5, 15])
        """Ids of text and codes of speech in one block, under pace "ratio"."""
        lookahead_words: int = 2
        """Words of text in front of the word being spoken, under pace "words"."""
        bistream_probability: float = 0.5
        """Share of the training samples laid out as bistream; the rest are unistream."""
        bistream_min_ratio: float = 3.0
        """Under pace "ratio", bistream needs more codes per id of text than this."""
        min_code_ratio: float = 2.0
        """Codes per id of text before the end may be drawn, where no words are counted."""
        max_code_ratio: float = 20.0
        """Codes per id of text after which speech is cut, where no words are counted."""
        min_codes_per_word: int = 1
        """Codes of a word before the next word may be asked for, under pace "words"."""
        word_base: int = 15
        """A word is cut after this many codes, ..."""
        word_per_id: int = 6
        """... plus this many for each of its ids."""
        fill: bool = True
        """Whether the head has FILL and the unused id before it; RWKVTTS's models have only the
        end, so they cannot alternate."""
        instruct: str = "alone"
        """Where an instruction stands: "alone" in the place of what a voice's recording says, as in
        CosyVoice2, or "beside" it, as in RWKVTTS."""
        parity: str = "right"
        """"right" as in training; "upstream" repeats what the public code does, with its flaws."""

    def __init__(self, config: Config, *, text: TextSpace, codes: CodeSpace) -> None:
        check(config, text, codes)
        self.config = config
        self.text = text
        self.codes = codes
        self.eos = codes.size
        self.unused = codes.size + 1
        self.fill = codes.size + 2
        self.extra = 3 if config.fill else 1
        self.alternates = config.form == "bistream"
        self.instruct_alone = config.instruct == "alone"
        self.conditions = ("text", "instruct", "prompt_text", "prompt_audio")
        self.tables = {"speech": codes.size + self.extra, "text": text.vocabulary, "marks": 2}

    def train(self, sample: Sample, random: Random) -> Positions:
        """Lay one utterance out; ``random`` chooses between unistream and bistream.

        A prompt stands in front as in a request, and predicts nothing. Raises ``DataError`` when
        ``word_ends`` does not fit the words of the text, and ``CapabilityError`` for an instruction
        without ``<|endofprompt|>`` in the tokenizer.
        """
        bistream = random.random() < self.config.bistream_probability and self.config.fill
        prompt = sample.prompt or Prompt()
        heard = [frame[0] for frame in prompt.speech]
        speech = [*heard, *(frame[0] for frame in sample.speech)]
        text = [*prompt.text, *sample.text]
        line = Line()
        line.put(MARKS, (SOS,))
        line.put(TEXT, close_instruct(sample.instruct, self))
        if bistream and self.config.pace == "words":
            self._alternate_words(line, sample, prompt, speech)
        elif bistream and len(speech) > self.config.bistream_min_ratio * len(text):
            self._alternate_ratio(line, text, speech)
        else:
            self._close(line, text, speech)
        if prompt.text or heard:
            line.hush(len(heard), self.codes.size)
        return line.positions()

    def start(self, prompt: Prompt) -> LayoutSession:
        """Begin a request in the form the config names.

        Raises ``CapabilityError`` when an instruction is given and the tokenizer lacks
        ``<|endofprompt|>``.
        """
        return CosyVoice2Session(self, prompt)

    def words(self, ids: Sequence[int]) -> list[tuple[int, ...]]:
        """The words of a text, each with the id that closes it."""
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

    def _close(self, line: Line, text: Iterable[int], speech: Iterable[int]) -> None:
        """The last block of every form: what is left of the text, TASK, what is left to say."""
        line.put(TEXT, text)
        line.put(MARKS, (TASK,))
        line.speak(speech)
        line.expect(self.eos)

    def _block(self, line: Line, text: Iterable[int], speech: Iterable[int]) -> None:
        """A block in front of the last: some text, the codes that may be said, a call for more."""
        line.put(TEXT, text)
        line.speak(speech)
        line.expect(self.fill)

    def _alternate_ratio(self, line: Line, text: Sequence[int], speech: Sequence[int]) -> None:
        n, m = self.config.mix
        blocks = len(text) // n
        for j in range(blocks):
            self._block(line, text[j * n : (j + 1) * n], speech[j * m : (j + 1) * m])
        self._close(line, text[blocks * n :], speech[blocks * m :])

    def _alternate_words(
        self, line: Line, sample: Sample, prompt: Prompt, speech: Sequence[int]
    ) -> None:
        heard, words = len(prompt.speech), self.words(prompt.text)
        ends = self.word_ends(words, heard, prompt.word_ends)
        own = self.words(sample.text)
        words += own
        ends += [heard + end for end in self.word_ends(own, len(sample.speech), sample.word_ends)]
        if not prompt.text:
            # nobody knows which words these are, so they come before all words; predicted by
            # ``speak`` and hushed with the rest of the prompt
            line.speak(speech[:heard])
        first = self.config.lookahead_words + 1
        text = [token for word in words[:first] for token in word]
        said = 0 if prompt.text else heard
        for following, end in zip(words[first:], ends, strict=False):
            self._block(line, text, speech[said:end])
            text, said = following, end
        self._close(line, text, speech[said:])


def check(config: CosyVoice2.Config, text: TextSpace, codes: CodeSpace) -> None:
    """Raise ``ConfigError`` for the first contradiction."""

    def refuse(what: str, key: str, do: str) -> None:
        raise ConfigError(what, where=f"layout.{key} of the cosyvoice2 layout", do=do)

    for key, legal in (
        ("form", ("unistream", "bistream")),
        ("pace", ("ratio", "words")),
        ("parity", ("right", "upstream")),
        ("instruct", ("alone", "beside")),
    ):
        if getattr(config, key) not in legal:
            known = " or ".join(legal)
            refuse(f"{getattr(config, key)!r} is not a {key}.", key, f"Write {known}.")
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
