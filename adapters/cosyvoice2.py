"""The CosyVoice2 layout: positions of text and speech in one sequence, and their targets.

``train`` lays an utterance out for training; ``start`` begins a request, whose session in
``cosyvoice2_session`` feeds the same sequence position by position. Both take the fields, the ids
and the words from ``cosyvoice2_rules``. Read this page first, then the session, then the rules.

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
from dataclasses import replace
from random import Random

import torch

from wishbone.adapters.cosyvoice2_rules import (
    SPEECH,
    TEXT,
    CosyVoice2Config,
    SequenceRules,
    check_config,
)
from wishbone.adapters.cosyvoice2_session import CosyVoice2Session
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.layout import IGNORE, Layout, Positions, Prompt, Sample
from wishbone.core.contract.session import LayoutSession
from wishbone.core.contract.text import TextSpace


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

    def put_one(self, table: int, row: int) -> None:
        """Append one position that predicts nothing yet."""
        self.put(table, (row,))

    def expect(self, target: int) -> None:
        """Set the target of the last position."""
        self.targets[-1] = target

    def speak(self, codes: Iterable[int]) -> None:
        """Append codes, each predicted at the position before it."""
        for code in codes:
            self.expect(code)
            self.put(SPEECH, (code,))

    def ignore_prompt(self, count: int, size: int) -> None:
        """Remove the targets in front of the first code that is not the prompt's.

        The prompt has ``count`` codes; marks between them are no targets either.
        A target below ``size`` is a code, any other an id of the layout.
        """
        code_places = [at for at, target in enumerate(self.targets) if 0 <= target < size]
        end = code_places[count] if count < len(code_places) else len(self.targets)
        self.targets[:end] = [IGNORE] * end

    def positions(self) -> Positions:
        """The sequence as tensors [T], [T, 1], [T, 1]."""
        return Positions(
            table=torch.tensor(self.table),  # [T]
            ids=torch.tensor(self.ids)[:, None],  # [T, 1]
            targets=torch.tensor(self.targets)[:, None],  # [T, 1]
        )


class CosyVoice2(Layout):
    """SOS, text, TASK, speech, EOS; in one piece or alternating. One codebook.

    Raises ``ConfigError`` from the constructor when the fields contradict each other or the
    tokenizer and codec at hand.
    """

    Config = CosyVoice2Config
    after_prompt = ("lone_word", "codes_per_id")

    def __init__(self, config: CosyVoice2Config, *, text: TextSpace, codes: CodeSpace) -> None:
        check_config(config, text, codes)
        self.config = config
        self.codes = codes
        self.rules = self.make_rules(config, text, codes)
        self.extra = self.rules.extra
        self.codes_per_id = config.codes_per_id
        self.alternates = config.form == "bistream"
        self.times_words = self.alternates and config.pace == "words"
        self.instruct_alone = config.instruct == "alone"
        self.conditions = ("text", "instruct", "prompt_text", "prompt_audio")
        self.tables = self.rules.tables

    @classmethod
    def make_rules(
        cls, config: CosyVoice2Config, text: TextSpace, codes: CodeSpace
    ) -> SequenceRules:
        """Make the rules that training and speaking share."""
        return SequenceRules(config, text, codes)

    @classmethod
    def spoken_forms(cls, config: CosyVoice2Config) -> Sequence[CosyVoice2Config]:
        """Return ``config``, and the same with the other form."""
        other = "unistream" if config.form == "bistream" else "bistream"
        return config, replace(config, form=other)

    def fewest_codes(self, ids: Sequence[int]) -> int:
        """Count the codes that the form demands of ``ids``, or a lone word always takes."""
        return self.rules.fewest_codes(ids)

    def train(self, sample: Sample, random: Random) -> Positions:
        """Lay one utterance out; ``random`` chooses between unistream and bistream.

        A prompt stands in front as in a request, and predicts nothing. Raises ``DataError`` when
        ``word_ends`` does not fit the words of the text, and ``CapabilityError`` for an instruction
        without ``<|endofprompt|>`` in the tokenizer.
        """
        bistream = random.random() < self.config.bistream_probability and self.config.fill
        prompt = sample.prompt or Prompt()
        prompt_codes = [frame[0] for frame in prompt.speech]
        speech = [*prompt_codes, *(frame[0] for frame in sample.speech)]
        text = [*prompt.text, *sample.text]
        line = Line()
        line.put_one(*self.rules.sos)
        line.put(TEXT, self.rules.close_instruct(sample.instruct))
        if bistream and self.config.pace == "words":
            self._alternate_words(line, sample, prompt, speech)
        elif bistream and len(speech) > self.config.bistream_min_ratio * len(text):
            self._alternate_ratio(line, text, speech)
        else:
            self._close(line, text, speech)
        if prompt.text or prompt_codes:
            line.ignore_prompt(len(prompt_codes), self.codes.size)
        return line.positions()

    def start(self, prompt: Prompt) -> LayoutSession:
        """Begin a request in the form the config names; its session feeds what ``train`` lays out.

        Raises ``CapabilityError`` when an instruction is given and the tokenizer lacks
        ``<|endofprompt|>``.
        """
        return CosyVoice2Session(self.rules, prompt)

    def _close(self, line: Line, text: Iterable[int], speech: Iterable[int]) -> None:
        """The last block of every form: the remaining text, TASK, the remaining codes, EOS."""
        line.put(TEXT, text)
        line.put_one(*self.rules.task)
        line.speak(speech)
        line.expect(self.rules.eos)

    def _block(self, line: Line, text: Iterable[int], speech: Iterable[int]) -> None:
        """A block in front of the last: some text, the codes it allows, FILL for more text."""
        line.put(TEXT, text)
        line.speak(speech)
        line.expect(self.rules.fill)

    def _alternate_ratio(self, line: Line, text: Sequence[int], speech: Sequence[int]) -> None:
        """Blocks of ``mix``; the session has them in ``_ratio``."""
        n, m = self.config.mix
        blocks = len(text) // n
        for j in range(blocks):
            self._block(line, text[j * n : (j + 1) * n], speech[j * m : (j + 1) * m])
        self._close(line, text[blocks * n :], speech[blocks * m :])

    def _alternate_words(
        self, line: Line, sample: Sample, prompt: Prompt, speech: Sequence[int]
    ) -> None:
        """One block a word; the session has them in ``_words``."""
        prompt_frames, words = len(prompt.speech), self.rules.words(prompt.text)
        ends = self.rules.word_ends(words, prompt_frames, prompt.word_ends)
        sample_words = self.rules.words(sample.text)
        words += sample_words
        ends += [
            prompt_frames + end
            for end in self.rules.word_ends(sample_words, len(sample.speech), sample.word_ends)
        ]
        if not prompt.text:
            # the words of these codes are unknown, so they come before all words; ``speak`` makes
            # them targets, which ``ignore_prompt`` removes with the others of the prompt
            line.speak(speech[:prompt_frames])
        first = self.config.lookahead_words + 1
        text = [token for word in words[:first] for token in word]
        spoken = 0 if prompt.text else prompt_frames
        for following, end in zip(words[first:], ends, strict=False):
            self._block(line, text, speech[spoken:end])
            text, spoken = following, end
        self._close(line, text, speech[spoken:])
