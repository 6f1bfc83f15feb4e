"""The spark layout against sequences that the public code made, and from text to samples.

The golden sequences were recorded from RWKVTTS (commit 0d4a25f, utils/multiple_jsonl.py and
utils/properties_util.py) and Spark-TTS (commit 2f1ea90, cli/SparkTTS.py), run with tables that
return their row.
"""

from dataclasses import replace
from random import Random

import pytest
import torch
from toy_codecs import HOP, RATE, learn, toy_system, utterance

from wishbone.adapters.cosyvoice2_rules import CosyVoice2Config
from wishbone.adapters.spark import SPARK_MARKS, Spark
from wishbone.adapters.xy import XY
from wishbone.core.audio.files import Audio
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import ConfigError, DataError
from wishbone.core.contract.layout import IGNORE, Prompt, Sample
from wishbone.core.contract.session import Draw, Emit, Feed, NeedText, SetSpeaker, Stop
from wishbone.core.contract.text import TextSpace
from wishbone.core.model.sampling import Sampler
from wishbone.core.model.speech_lm import prefix
from wishbone.core.speak import pipeline, text_to_speech
from wishbone.core.speak.voice import Voice
from wishbone.core.testing import check_class
from wishbone.plugins.heads.head import LinearHead, LinearHeadConfig

BICODEC = CodeSpace(size=8192, rate=50.0, global_size=4096, global_count=4)
"""BiCodec has 32 global codes; four make shorter goldens."""
TEXT = TextSpace(vocabulary=1000)
SAMPLE = Sample(
    text=[11, 12, 13], speech=[(20,), (21,), (22,)], global_codes=[7, 8, 9, 10],
    instruct=[900, 915, 946, 924, 907, 903],
)  # fmt: skip
"""The instruction is SPCT_0 15 46 24 7 3: what RWKVTTS says of a happy young woman."""


def layout(codes=BICODEC, **fields):
    return Spark(Spark.Config(**fields), text=TEXT, codes=codes)


def named(part, rows):
    marks = "m{}".format if part.config.form == "respark" else SPARK_MARKS.__getitem__
    return [marks(row) if table == 3 else f"{'stg'[table]}{row}" for table, row in rows]


def lay(sample, **fields):
    """Inputs by name, and targets shifted to the position they are said at."""
    part = layout(**fields)
    laid = part.train(sample, Random(0))
    rows = zip(laid.table.tolist(), laid.ids[:, 0].tolist(), strict=True)
    return named(part, rows), laid.targets[:, 0].tolist()


def shifted(labels):
    """Labels as the public code writes them -> what is predicted at each position."""
    return [IGNORE if label == -100 else label for label in labels[1:]]


def test_golden_respark_with_the_voice_given():
    inputs, targets = lay(SAMPLE, voice_probability=0)
    golden = ["m2", "t11", "t12", "t13", "m0", "g7", "g8", "g9", "g10", "m1", "s20", "s21", "s22"]
    labels = [-100] * 10 + [20, 21, 22, 8192]
    # the public code also feeds the end, at a position that predicts nothing
    assert inputs == golden and targets == shifted(labels)


def test_golden_respark_with_properties():
    inputs, targets = lay(SAMPLE, voice_probability=1)
    golden = ["t900", "t915", "t946", "t924", "t907", "t903", "m2", "t11", "t12", "t13", "m0"]
    golden += ["g7", "g8", "g9", "g10", "m1", "s20", "s21", "s22"]
    labels = [-100] * 11 + [7, 8, 9, 10, -100, 20, 21, 22, 8192]
    assert inputs == golden and targets == shifted(labels)


def speak(part, prompt, text, draws):
    session, fed, told, emitted, wishes = part.start(prompt), [], [], [], []
    draws, given, answer = list(draws), iter([text]), None
    while not isinstance(action := session.next(answer), Stop):
        answer = None
        match action:
            case Feed(positions):
                fed += [(table, row[0]) for table, row in positions]
            case SetSpeaker(codes):
                told.append(codes)
            case Emit(code):
                emitted.append(code[0])
            case NeedText():
                answer = next(given, None)
            case Draw():
                wishes.append(action)
                assert draws[0] not in action.banned
                answer = (draws.pop(0),)
    return named(part, fed), told, emitted, wishes


def test_golden_spark_prompt_with_and_without_transcript():
    part = layout(form="spark", min_code_ratio=0)
    voice = Prompt(text=[1], speech=[(20,), (21,), (22,)], global_codes=[7, 8, 9, 10])
    fed, told, emitted, _ = speak(part, voice, [2], [8192])
    golden = (
        "<|task_tts|> <|start_content|> t1 t2 <|end_content|> <|start_global_token|> g7 g8 g9 g10"
        " <|end_global_token|> <|start_semantic_token|> s20 s21 s22"
    )
    assert fed == golden.split() and told == [(7, 8, 9, 10)] and emitted == []
    fed, *_ = speak(part, replace(voice, text=(), speech=()), [2], [8192])
    golden = (
        "<|task_tts|> <|start_content|> t2 <|end_content|> <|start_global_token|> g7 g8 g9 g10"
        " <|end_global_token|>"
    )
    # the public model draws the mark that comes next; it is the only one that can
    assert fed == [*golden.split(), "<|start_semantic_token|>"]


def test_golden_spark_control():
    part = layout(form="spark", min_code_ratio=0)
    fed, *_ = speak(part, Prompt(instruct=[501, 513, 521]), [2], [7, 8, 9, 10, 20, 8192])
    golden = (
        "<|task_controllable_tts|> <|start_content|> t2 <|end_content|> <|start_style_label|>"
        " t501 t513 t521 <|end_style_label|>"
    )
    after = "<|start_global_token|> g7 g8 g9 g10 <|end_global_token|> <|start_semantic_token|> s20"
    assert fed == [*golden.split(), *after.split()]


def test_a_voice_is_drawn_among_global_codes_alone_and_told_before_speech():
    fed, told, emitted, wishes = speak(
        layout(min_code_ratio=0), Prompt(instruct=[900]), [2], [7, 8, 9, 10, 8191, 8192]
    )
    assert told == [(7, 8, 9, 10)] and emitted == [8191]
    assert all(w.utterance_level and set(w.banned) == set(range(4096, 8193)) for w in wishes[:4])
    assert not any(w.utterance_level for w in wishes[4:])


def test_a_voice_of_another_codec_is_refused():
    with pytest.raises(DataError, match="3 global codes, the codec 4"):
        layout().start(Prompt(global_codes=[1, 2, 3]))
    with pytest.raises(DataError, match="0 global codes, the codec 4"):
        layout().train(replace(SAMPLE, global_codes=()), Random(0))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"codes": CodeSpace(size=9, rate=25.0)}, "0 global codes"),
        ({"codes": replace(BICODEC, global_size=9000)}, "no larger than that of speech"),
        ({"codes": replace(BICODEC, codebooks=2)}, "2 codebooks"),
        ({"form": "sparkle"}, "not a form"),
    ],
)
def test_contradictions_are_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        layout(**fields)


@pytest.mark.parametrize("form", ["respark", "spark"])
def test_contract(form):
    results = check_class("layout", Spark, Spark.Config(form=form))
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []


class Late(Spark):
    """Trains with one mark more in front of speech than it speaks with."""

    def opening(self):
        return 3, (1, 1)

    def start(self, prompt):
        return Spark(self.config, text=self.text, codes=self.codes).start(prompt)


def test_the_contract_sees_a_layout_that_trains_otherwise_than_it_speaks():
    failed = {r.name for r in check_class("layout", Late) if not r.passed}
    assert failed == {"consistent"}


TOY = CodeSpace(size=20, rate=RATE, global_size=10, global_count=3)


@pytest.fixture(scope="module")
def learnt():
    part = Spark(Spark.Config(min_code_ratio=1), text=TextSpace(vocabulary=40), codes=TOY)
    system = toy_system(
        part, lambda width: LinearHead(LinearHeadConfig(), width=width, codes=TOY, extra=1), TOY
    )
    known = [utterance("hello there", TOY, (30, 31)), utterance("go on", TOY, (32, 33))]
    return system, known, learn(system, known, 40)


def test_a_toy_system_learns_and_speaks_with_the_voice_it_drew(learnt):
    system, known, losses = learnt
    assert losses[0] > 2.0 > 0.1 > losses[-1]
    for text, sample in zip(["hello there", "go on"], known, strict=True):
        record = []
        # properties alone: the model says whose voice it is, and then what it says
        prompt = Prompt(instruct=sample.instruct)
        codes, said = spoken(system, text, prompt)
        assert codes == list(map(tuple, sample.speech))
        assert said.global_codes == tuple(sample.global_codes)
        # the voice given: nothing is drawn but speech
        voice = Voice(global_codes=tuple(sample.global_codes))
        audio = text_to_speech.say(system, text, voice, record=record)
        assert record[0].codes == codes and record[0].reason == "end"
        assert len(audio.samples) == HOP * len(codes)
        assert system.decoder.told[-1] == tuple(sample.global_codes)


def spoken(system, text, prompt):
    said = pipeline.Utterance()
    sampler = Sampler(system.sampling, system.decoder.codes)
    begin = prefix(system.model, system.layout, prompt)
    ids = system.tokenizer.encode(text)
    return list(pipeline.frames(system, [ids], prompt, sampler, begin, said)), said


def test_the_voice_drawn_for_the_first_sentence_speaks_the_others(learnt):
    system, _, _ = learnt
    record = []
    text_to_speech.say(system, "Hello there. Go on. Hello there.", record=record)
    voices = {utterance.global_codes for utterance in record}
    assert len(record) == 3 and len(voices) == 1 and set(system.decoder.told[-3:]) == voices


def test_a_voice_from_a_recording_keeps_its_global_codes(learnt, tmp_path):
    system, _, _ = learnt
    rate = system.speech_tokenizer.sample_rate
    # a pitch, so that it is speech
    tone = torch.sin(2 * torch.pi * 150 * torch.arange(rate) / rate)  # [S]
    recording = Audio(0.1 * tone, rate)
    voice = Voice.from_audio(system, recording, "hello")
    assert voice.global_codes == (0, 1, 2)
    again = Voice.load(voice.save(tmp_path / "her.yaml"))
    assert again.prompt(system) == voice.prompt(system)
    assert again.prompt(system).global_codes == (0, 1, 2)


def test_speech_is_cut_after_as_many_seconds_an_id_in_every_layout():
    frames = [(CosyVoice2Config(), 25), (Spark.Config(), 50), (XY.Config(), 12.5)]
    assert [config.max_code_ratio / rate for config, rate in frames] == [0.8] * 3
