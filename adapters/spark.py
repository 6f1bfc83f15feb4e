"""The layouts of ReSpark and Spark-TTS: a voice in a few global codes, then speech.

Form ``respark``, that of RWKVTTS (``create_inputs_and_labels_with_properties`` in
utils/multiple_jsonl.py). A request with properties draws the voice, one without is given it::

    in      [p0 p1 ..] START t0 t1 GLOBAL g0 g1 ... g31 SEMANTIC s0 s1 s2
    target   _  _   _   _    _  _  (g0    g1 g2 ...) _  s0       s1 s2 END

Form ``spark``, that of Spark-TTS (``process_prompt`` and ``process_prompt_control`` in
cli/SparkTTS.py)::

    TTS CONTENT t0 t1 /CONTENT GLOBAL g0 ... /GLOBAL SEMANTIC s0 s1 ...
    CONTROL CONTENT t0 t1 /CONTENT STYLE p0 p1 /STYLE GLOBAL g0 ... /GLOBAL SEMANTIC s0 s1 ...

The public Spark-TTS model says a few values of its properties between /STYLE and GLOBAL, and its
code drops them unread; here nothing stands there. Marks are fed, never drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from wishbone.adapters.cosyvoice2 import Line
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import ConfigError, DataError
from wishbone.core.contract.layout import Layout, Positions, Prompt, Sample
from wishbone.core.contract.part import NonNegative, Positive, Share
from wishbone.core.contract.session import (
    Draw,
    Emit,
    Feed,
    LayoutSession,
    Position,
    SetSpeaker,
    SteppedSession,
    Steps,
    Stop,
)
from wishbone.core.contract.text import TextSpace

SPEECH, TEXT, GLOBAL, MARKS = 0, 1, 2, 3
"""Indices into ``Spark.tables``."""

TAG_GLOBAL, TAG_SEMANTIC, TAG_START = range(3)
"""Rows of the table of marks in form ``respark``, as RWKVTTS numbers its tags."""

SPARK_MARKS = (
    "<|task_tts|>", "<|start_content|>", "<|end_content|>", "<|start_global_token|>",
    "<|end_global_token|>", "<|start_semantic_token|>", "<|task_controllable_tts|>",
    "<|start_style_label|>", "<|end_style_label|>",
)  # fmt: skip
"""Rows of the table of marks in form ``spark``, by their names in Spark-TTS's vocabulary."""

(TTS, CONTENT, END_CONTENT, START_GLOBAL, END_GLOBAL, START_SEMANTIC, CONTROL, STYLE, END_STYLE) = (
    range(len(SPARK_MARKS))
)


Part = tuple[int, Sequence[int]]
"""A table, and rows of it in a row."""


class Spark(Layout):
    """Text, the codes of the utterance as a whole, its codes in time. One codebook of the latter.

    Ids of global codes are drawn from the first rows of the speech table, as the public models do,
    and read from a table of their own. Raises ``ConfigError`` from the constructor for a codec
    without global codes, or with several codebooks.
    """

    @dataclass
    class Config:
        form: str = "respark"
        """Sequence of marks: "respark" or "spark"."""
        voice_probability: Share = 0.5
        """Share of training samples in which the voice is predicted, after its properties where
        they are known; in the others it is given. RWKVTTS lays every sample out both ways."""
        min_code_ratio: NonNegative = 2.0
        """Codes per id of text before the end may be drawn."""
        max_code_ratio: Positive = 40.0
        """Codes per id of text after which speech is cut: at 50 codes a second, CosyVoice2's."""

    def __init__(self, config: Config, *, text: TextSpace, codes: CodeSpace) -> None:
        _check(config, codes)
        self.config = config
        self.text = text
        self.codes = codes
        self.end = codes.size
        self.extra = 1
        self.conditions = ("text", "instruct", "prompt_text", "prompt_audio", "speaker")
        self.tables = {
            "speech": codes.size + 1,
            "text": text.vocabulary,
            "global": codes.global_size,
            "marks": 3 if config.form == "respark" else len(SPARK_MARKS),
        }

    @classmethod
    def small_codes(cls) -> CodeSpace:
        """A codec for the contract suite."""
        return CodeSpace(size=27, rate=50.0, levels=(3, 3, 3), global_size=9, global_count=4)

    def train(self, sample: Sample, random: Random) -> Positions:
        """Lay one utterance out; ``random`` chooses whether its voice is given or predicted.

        Raises ``DataError`` when the sample has another number of global codes than the codec; one
        that is anonymous needs none.
        """
        count = self.codes.global_count
        if not sample.anonymous and len(sample.global_codes) != count:
            raise DataError(
                f"The utterance has {len(sample.global_codes)} global codes, the codec {count}.",
                "a sample laid out by the spark layout",
                "Use data of this codec, such as RWKVTTS's JSONL with 'global_tokens'.",
            )
        predicted = random.random() < self.config.voice_probability
        line = Line()
        instruct = sample.instruct if predicted else ()
        prompt = sample.prompt or Prompt()
        text = [*prompt.text, *sample.text]
        for table, rows in self.before(instruct) + self.after(text, instruct):
            line.put(table, rows)
        for code in () if sample.anonymous else sample.global_codes:
            if predicted:
                line.expect(code)
            line.put(GLOBAL, (code,))
        line.put(*self.opening())
        line.put(SPEECH, [frame[0] for frame in prompt.speech])
        line.speak(frame[0] for frame in sample.speech)
        line.expect(self.end)
        return line.positions()

    def start(self, prompt: Prompt) -> LayoutSession:
        """Begin a request. Without global codes in the prompt, the model draws a voice.

        Raises ``DataError`` when the prompt has another number of them than the codec.
        """
        prompt_count, count = len(prompt.global_codes), self.codes.global_count
        if prompt_count not in (0, count):
            raise DataError(
                f"The prompt has {prompt_count} global codes, the codec {count}.",
                "the voice of the request",
                "Make the voice again from its recording with this system's codec.",
            )
        return SparkSession(self, prompt)

    def before(self, instruct: Sequence[int]) -> list[Part]:
        """Marks and properties in front of the text."""
        if self.config.form == "respark":
            return [(TEXT, instruct), (MARKS, (TAG_START,))]
        return [(MARKS, (CONTROL if instruct else TTS, CONTENT))]

    def after(self, text: Sequence[int], instruct: Sequence[int]) -> list[Part]:
        """The text, and the marks and properties between it and the global codes."""
        if self.config.form == "respark":
            return [(TEXT, text), (MARKS, (TAG_GLOBAL,))]
        style: list[Part] = [(MARKS, (STYLE,)), (TEXT, instruct), (MARKS, (END_STYLE,))]
        return [
            (TEXT, text),
            (MARKS, (END_CONTENT,)),
            *(style if instruct else ()),
            (MARKS, (START_GLOBAL,)),
        ]

    def opening(self) -> Part:
        """Marks between the global codes and speech."""
        if self.config.form == "respark":
            return MARKS, (TAG_SEMANTIC,)
        return MARKS, (END_GLOBAL, START_SEMANTIC)


class SparkSession(SteppedSession):
    """One request: all text, the voice, then codes until the end is drawn."""

    def __init__(self, layout: Spark, prompt: Prompt) -> None:
        super().__init__()
        self._layout = layout
        self._prompt = prompt

    def _run(self) -> Steps:
        layout, prompt = self._layout, self._prompt
        yield Feed(_positions([*layout.before(prompt.instruct), (TEXT, prompt.text)]))
        yield from self._wait_for_the_end()
        if not self._text:
            yield Stop("end")
            return
        yield Feed(_positions(layout.after(self._text, prompt.instruct)))
        voice = list(prompt.global_codes)
        if voice:
            yield Feed(_positions([(GLOBAL, voice)]))
        elif not prompt.anonymous:
            yield from self._draw_voice(voice)
        yield SetSpeaker(tuple(voice))
        prompt_codes = [frame[0] for frame in prompt.speech]
        yield Feed(_positions([layout.opening(), (SPEECH, prompt_codes)]))
        yield from self._speak()

    def _draw_voice(self, voice: list[int]) -> Steps:
        """Draw the global codes and append them to ``voice``."""
        codes = self._layout.codes
        never = tuple(range(codes.global_size, codes.size + 1))
        for _ in range(codes.global_count):
            (code,) = yield from self._draw(Draw(never, utterance_level=True))
            voice.append(code)
            yield Feed([(GLOBAL, (code,))])

    def _speak(self) -> Steps:
        """Codes in time until the end is drawn, within bounds."""
        config, end = self._layout.config, self._layout.end
        fewest, most = (
            int(ratio * len(self._text)) for ratio in (config.min_code_ratio, config.max_code_ratio)
        )
        for spoken in range(most):
            (code,) = yield from self._draw(Draw((end,) if spoken < fewest else ()))
            if code == end:
                yield Stop("end")
                return
            yield Emit((code,))
            yield Feed([(SPEECH, (code,))])
        yield Stop("length")


def _positions(parts: Sequence[Part]) -> list[Position]:
    return [(table, (row,)) for table, rows in parts for row in rows]


def _check(config: Spark.Config, codes: CodeSpace) -> None:
    """Raise ``ConfigError`` for the first contradiction."""
    where = "the spark layout and the codec"
    if config.form not in ("respark", "spark"):
        raise ConfigError(
            f"{config.form!r} is not a form.", "layout.form", "Write respark or spark."
        )
    if not codes.global_count or not 0 < codes.global_size <= codes.size:
        raise ConfigError(
            f"The codec has {codes.global_count} global codes of {codes.global_size}, and this"
            f" layout needs some, of a codebook no larger than that of speech, {codes.size}.",
            where,
            "Use a codec such as BiCodec, or the cosyvoice2 layout.",
        )
    if codes.codebooks != 1:
        raise ConfigError(
            f"The codec has {codes.codebooks} codebooks, and this layout holds one.",
            where,
            "Use a codec of one codebook, or the xy layout.",
        )
