"""The XY layout of RWKVTTS: several codebooks at every position, each one frame behind the last.

With three codebooks, s0 the first codes of a frame, t0 an id of text, and ``-`` for nothing yet or
nothing more::

    in      SPEAKER t0 t1 SPEECH  s0 s1 s2 -  -        target  _ _ _ s0 s1 s2 -  _  _
                                  -  u0 u1 u2 -                _ _ _ _  u0 u1 u2 -  _
                                  -  -  v0 v1 v2               _ _ _ _  _  v0 v1 v2 -

So a code is drawn when the coarser codes of its frame are known (``process_batch`` in
utils/xy_data_processor.py). ``-`` is one id more than the codec has; its vector is zero with the
head ``channels``. Channel 0 draws it to end the utterance, and the others follow by the delay.

The public code cannot end: it lets channel 0 draw nothing but codes while it generates
(``_sample`` in model/llm/xy_llm.py), so the end that was trained is never drawn. Here it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch

from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import CapabilityError, ConfigError
from wishbone.core.contract.layout import IGNORE, Layout, Positions, Prompt, Sample
from wishbone.core.contract.part import Count, NonNegative, Positive, Size
from wishbone.core.contract.session import (
    Draw,
    Emit,
    Feed,
    LayoutSession,
    SteppedSession,
    Steps,
    Stop,
)
from wishbone.core.contract.text import TextSpace

SPEECH, TEXT, MARKS = 0, 1, 2
"""Indices into ``XY.tables``."""

Frame = Sequence[int]


class XY(Layout):
    """A speaker's mark, text, a mark, then delayed frames; any number of codebooks.

    Row 0 of the marks ends the text, ``[CTL0]`` of the public models; the others are speakers,
    ``[S0]`` and so on. Raises ``ConfigError`` for a speaker that does not exist.
    """

    @dataclass
    class Config:
        speakers: Size = 10
        """Marks of speakers."""
        speaker: Count = 0
        """Number of the one that speaks."""
        min_code_ratio: NonNegative = 1.0
        """Frames per id of text before the end may be drawn."""
        max_code_ratio: Positive = 10.0
        """Frames per id of text after which speech is cut: at 12.5 frames a second, CosyVoice2's
        bound."""

    def __init__(self, config: Config, *, text: TextSpace, codes: CodeSpace) -> None:
        if not 0 <= config.speaker < config.speakers:
            raise ConfigError(
                f"There is no speaker {config.speaker} among {config.speakers}.",
                "layout.speaker of the xy layout",
                "Count speakers from 0, or raise layout.speakers.",
            )
        self.config = config
        self.text = text
        self.codes = codes
        self.nothing = codes.size
        self.extra = 1
        self.conditions = ("text", "prompt_text", "prompt_audio", "speaker")
        self.tables = {
            "speech": codes.size + 1,
            "text": text.vocabulary,
            "marks": config.speakers + 1,
        }

    @classmethod
    def small_codes(cls) -> CodeSpace:
        """A codec for the contract suite."""
        return CodeSpace(size=27, rate=12.5, codebooks=3)

    def train(self, sample: Sample, random: Random) -> Positions:
        """Lay one utterance out; nothing varies. Raises ``CapabilityError`` for an instruction."""
        _refuse_instruct(sample.instruct)
        prompt = sample.prompt or Prompt()
        speech, text = [*prompt.speech, *sample.speech], [*prompt.text, *sample.text]
        books, steps = self.codes.codebooks, len(speech) + self.codes.codebooks
        speaker = self.speaker(sample.anonymous)
        rows = [[row] * books for row in (*speaker, *text, 0)]
        rows += [self.row(speech, t, self.nothing) for t in range(steps - 1)]
        targets = [[IGNORE] * books for _ in range(len(speaker) + len(text))]
        prompt_rows = [[IGNORE] * books for _ in prompt.speech]
        predicted = [*prompt_rows, *sample.speech]
        targets += [self.row(predicted, t, IGNORE, end=self.nothing) for t in range(steps)]
        table = [MARKS] * len(speaker) + [TEXT] * len(text) + [MARKS, *[SPEECH] * (steps - 1)]
        return Positions(
            table=torch.tensor(table),  # [T]
            ids=torch.tensor(rows),  # [T, Q]
            targets=torch.tensor(targets),  # [T, Q]
        )

    def speaker(self, anonymous: bool) -> tuple[int, ...]:
        """Rows of the marks that name the speaker."""
        return () if anonymous else (1 + self.config.speaker,)

    def row(self, speech: Sequence[Frame], t: int, blank: int, end: int | None = None) -> list[int]:
        """The delayed frame t: book q holds the code of frame t - q.

        ``blank`` stands where that frame does not exist, ``end`` at the first after the last.
        """
        row = []
        for book in range(self.codes.codebooks):
            frame = t - book
            if 0 <= frame < len(speech):
                row.append(speech[frame][book])
            else:
                row.append(end if end is not None and frame == len(speech) else blank)
        return row

    def start(self, prompt: Prompt) -> LayoutSession:
        """Begin a request. Raises ``CapabilityError`` for an instruction, which XY cannot take."""
        _refuse_instruct(prompt.instruct)
        return XYSession(self, prompt)


class XYSession(SteppedSession):
    """One request: all text, then frames that run behind each other until channel 0 ends."""

    def __init__(self, layout: XY, prompt: Prompt) -> None:
        super().__init__()
        self._layout = layout
        self._prompt = prompt

    def _run(self) -> Steps:
        layout, prompt = self._layout, self._prompt
        speaker = map(self._mark, layout.speaker(prompt.anonymous))
        yield Feed([*speaker, *map(self._word, prompt.text)])
        yield from self._wait_for_the_end()
        if not self._text:
            yield Stop("end")
            return
        frames = [list(frame) for frame in prompt.speech]
        rows = [layout.row(frames, t, layout.nothing) for t in range(len(frames))]
        yield Feed(
            [*map(self._word, self._text), self._mark(0), *((SPEECH, tuple(row)) for row in rows)]
        )
        yield from self._speak(frames)

    def _speak(self, frames: list[list[int]]) -> Steps:
        """Row after row; ``frames`` are those of the prompt, and drawn ones are appended."""
        layout, books, prompt_count = self._layout, self._layout.codes.codebooks, len(frames)
        ratios = (layout.config.min_code_ratio, layout.config.max_code_ratio)
        fewest, most = (prompt_count + int(ratio * len(self._text)) for ratio in ratios)
        total, reason, t = -1, "end", prompt_count
        while total < 0 or t < total + books - 1:
            rules = [self._rule(frames, t, book, prompt_count, total) for book in range(books)]
            if total < 0:
                cut = t >= most
                reason = "length" if cut else "end"
                early = (layout.nothing,) if t < fewest else ()
                rules[0] = Draw(forced=layout.nothing) if cut else Draw(early)
            row = yield from self._draw(Draw(per_codebook=tuple(rules)))
            if total < 0 and row[0] == layout.nothing:
                total = t
            if total < 0:
                frames.append([row[0]] + [layout.nothing] * (books - 1))
            for book in range(1, books):
                if prompt_count <= t - book < len(frames):
                    frames[t - book][book] = row[book]
            complete = t - books + 1
            if prompt_count <= complete < len(frames):
                yield Emit(tuple(frames[complete]))
            if total < 0 or t < total + books - 1:
                yield Feed([(SPEECH, tuple(row))])
            t += 1
        if books > 1:
            # the last channel's own end: trained, and known without asking the model
            yield from self._draw(Draw(forced=layout.nothing))
        yield Stop(reason)

    def _rule(
        self, frames: list[list[int]], t: int, book: int, prompt_count: int, total: int
    ) -> Draw:
        """Rule for channel ``book`` in row t: nothing, the prompt's code, or any code."""
        frame, nothing = t - book, self._layout.nothing
        if frame < 0 or 0 <= total <= frame:
            return Draw(forced=nothing)
        if frame < prompt_count:
            return Draw(forced=frames[frame][book])
        return Draw((nothing,))

    def _word(self, row: int) -> tuple[int, tuple[int, ...]]:
        return TEXT, (row,) * self._layout.codes.codebooks

    def _mark(self, row: int) -> tuple[int, tuple[int, ...]]:
        return MARKS, (row,) * self._layout.codes.codebooks


def _refuse_instruct(ids: Sequence[int]) -> None:
    if ids:
        raise CapabilityError(
            "The xy layout has no place for an instruction.",
            "an instruction or properties of a sample or a prompt",
            "Leave it out, or use the spark or the cosyvoice2 layout.",
        )
