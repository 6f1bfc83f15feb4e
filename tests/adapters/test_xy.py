"""The xy layout against sequences that the public code made, and from text to samples.

The golden sequences were recorded from RWKVTTS (commit 0d4a25f, ``XYDataProcessor.process_batch``
in utils/xy_data_processor.py): its channel 0 shifts codes by 65536 and ends with the last id of the
vocabulary, its pad is the last of 1025 ids of speech.
"""

import sys
from random import Random

import pytest
import torch
from toy_codecs import HOP, RATE, learn, toy_system, utterance

from wishbone.adapters.xy import XY
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import CapabilityError, ConfigError
from wishbone.core.contract.layout import IGNORE, Prompt, Sample
from wishbone.core.contract.session import Draw, Emit, Feed, NeedText, Stop
from wishbone.core.contract.text import TextSpace
from wishbone.core.model.sampling import Sampler
from wishbone.core.model.speech_lm import prefix
from wishbone.core.speak import pipeline, text_to_speech
from wishbone.core.speak.voice import Voice
from wishbone.core.testing import check_class
from wishbone.plugins.heads.channels import ChannelsHead, ChannelsHeadConfig

SHIFT, PAD, TEXT_PAD, S0, CTL0 = 65536, 1024, 66699, 66561, 66571
GOLDEN_INPUTS = [
    [66561, 1024, 1024, 1024], [34, 1024, 1024, 1024], [42, 1024, 1024, 1024],
    [66571, 1024, 1024, 1024], [65637, 1024, 1024, 1024], [65638, 201, 1024, 1024],
    [65639, 202, 301, 1024], [66699, 203, 302, 401], [66699, 1024, 303, 402],
    [66699, 1024, 1024, 403],
]  # fmt: skip
GOLDEN_LABELS = [
    [-100, -100, -100, -100], [-100, -100, -100, -100], [-100, -100, -100, -100],
    [65637, -100, -100, -100], [65638, 201, -100, -100], [65639, 202, 301, -100],
    [66699, 203, 302, 401], [-100, 1024, 303, 402], [-100, -100, 1024, 403],
    [-100, -100, -100, 1024],
]  # fmt: skip
"""Four channels of three frames: 101.. 201.. 301.. 401.. after the text 34 42."""
FRAMES = [(101 + t, 201 + t, 301 + t, 401 + t) for t in range(3)]
TEXT = TextSpace(vocabulary=66700)


def layout(books=4, **fields):
    codes = CodeSpace(size=1024, rate=12.5, codebooks=books)
    return XY(XY.Config(**fields), text=TEXT, codes=codes)


def as_theirs(laid):
    """Our inputs and targets in their ids."""
    inputs, labels = [], []
    for table, row in zip(laid.table.tolist(), laid.ids.tolist(), strict=True):
        if table == 0:
            first = TEXT_PAD if row[0] == PAD else SHIFT + row[0]
            inputs.append([first, *row[1:]])
        else:
            first = row[0] if table == 1 else {0: CTL0, 1: S0}[row[0]]
            inputs.append([first] + [PAD] * (len(row) - 1))
    for row in laid.targets.tolist():
        first = {PAD: TEXT_PAD, IGNORE: -100}.get(row[0], SHIFT + row[0])
        labels.append([first, *(-100 if t == IGNORE else t for t in row[1:])])
    return inputs, labels


def test_golden_training_sequence():
    laid = layout().train(Sample([34, 42], FRAMES), Random(0))
    inputs, labels = as_theirs(laid)
    assert inputs == GOLDEN_INPUTS and labels == GOLDEN_LABELS


def test_golden_eight_channels_take_seven_more_rows():
    frames = [tuple(100 * c + t for c in range(1, 9)) for t in range(1, 4)]
    laid = layout(8).train(Sample([34, 42], frames), Random(0))
    assert laid.ids.shape == (14, 8)
    assert laid.ids[-1].tolist() == [PAD] * 7 + [803]
    assert laid.targets[-1].tolist() == [IGNORE] * 7 + [PAD]
    assert laid.targets[10].tolist() == [IGNORE] * 4 + [PAD, 603, 702, 801]


def test_the_last_code_of_the_codec_is_a_code():
    # with speech_vocab_size 1024, the public default, code 1023 is the pad and never trained
    laid = layout(2).train(Sample([34], [(5, 1023), (1023, 6)]), Random(0))
    assert laid.targets.tolist()[-3:] == [[1023, 1023], [PAD, 6], [IGNORE, PAD]]


def speak(part, prompt, text, script):
    """Drive a session: ``script`` maps (row, codebook) to a code, everything else ends."""
    session, fed, emitted, wishes = part.start(prompt), [], [], []
    given, answer = iter([text]), None
    while not isinstance(action := session.next(answer), Stop):
        answer = None
        match action:
            case Feed(positions):
                fed += [row for table, row in positions if table == 0]
            case Emit(code):
                emitted.append(code)
            case NeedText():
                answer = next(given, None)
            case Draw():
                wishes.append(action)
                books, t = range(part.codes.codebooks), len(fed)
                drawn = []
                for book in books:
                    wish = action.per_codebook[book] if action.per_codebook else action
                    wanted = script(t, book) if wish.forced is None else wish.forced
                    assert wanted not in wish.banned, (t, book)
                    drawn.append(wanted)
                answer = tuple(drawn)
    return fed, emitted, wishes, action.reason


def scripted(frames):
    def script(t, book):
        at = t - book
        return frames[at][book] if at < len(frames) else PAD

    return script


def test_speaking_runs_the_channels_out_after_the_end():
    part = layout(min_code_ratio=0.5)
    fed, emitted, wishes, reason = speak(part, Prompt(), [34, 42], scripted(FRAMES))
    rows = layout().train(Sample([34, 42], FRAMES), Random(0))
    assert fed == [tuple(row) for row in rows.ids[rows.table == 0].tolist()]
    assert emitted == FRAMES and reason == "end"
    # what is known costs no pass through the model: the last channel's own end
    assert wishes[-1].forced == PAD


def test_a_prompt_continues_the_same_rows():
    frames = FRAMES + [(111 + t, 211 + t, 311 + t, 411 + t) for t in range(5)]
    prompt = Prompt(text=[34], speech=frames[:3])
    fed, emitted, wishes, _ = speak(layout(min_code_ratio=1), prompt, [42], scripted(frames))
    rows = layout().train(Sample([34, 42], frames), Random(0))
    assert fed == [tuple(row) for row in rows.ids[rows.table == 0].tolist()]
    assert emitted == frames[3:]
    # channels behind the first still owe codes of the prompt
    assert [wish.forced for wish in wishes[0].per_codebook] == [None, 203, 302, 401]


def test_the_end_is_allowed_between_the_bounds_and_only_on_channel_0():
    part = layout(min_code_ratio=1, max_code_ratio=3)
    _, emitted, wishes, reason = speak(part, Prompt(), [34, 42], lambda t, book: 7)
    assert len(emitted) == 6 and reason == "length"
    assert [PAD in w.per_codebook[0].banned for w in wishes[:4]] == [True, True, False, False]
    assert all(PAD in w.per_codebook[1].banned for w in wishes[1:6])


def test_an_end_in_the_first_row_is_an_end():
    fed, emitted, wishes, reason = speak(layout(min_code_ratio=0), Prompt(), [34], scripted([]))
    assert emitted == [] and reason == "end"
    first, *later = [wish.per_codebook[0] if wish.per_codebook else wish for wish in wishes]
    assert first.forced is None and PAD not in first.banned
    assert len(later) > 1 and all(rules.forced == PAD for rules in later)


def test_an_instruction_is_refused():
    with pytest.raises(CapabilityError, match="no place for an instruction"):
        layout().start(Prompt(instruct=[1]))
    with pytest.raises(ConfigError, match="no speaker 10"):
        layout(speaker=10)


@pytest.mark.parametrize("cls", [XY, type("One", (XY,), {})])
def test_contract(cls):
    if cls is not XY:
        cls.small_codes = classmethod(lambda _: CodeSpace(size=27, rate=25.0))
    results = check_class("layout", cls)
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []


class NotDelayed(XY):
    """Lays frames out without a delay, and speaks with one."""

    def row(self, speech, t, blank, end=None):
        if sys._getframe(1).f_code.co_name not in ("train", "<listcomp>"):
            return super().row(speech, t, blank, end)
        if t < len(speech):
            return list(speech[t])
        last = end if end is not None and t == len(speech) else blank
        return [last] * self.codes.codebooks


class Swapped(XY):
    """Emits the codes of two channels in each other's place."""

    def start(self, prompt):
        session = super().start(prompt)
        right = session.next

        def next_():
            action = right()
            return Emit(action.code[::-1]) if isinstance(action, Emit) else action

        session.next = next_
        return session


@pytest.mark.parametrize("cls", [NotDelayed, Swapped])
def test_the_contract_sees_channels_out_of_place(cls):
    failed = {r.name for r in check_class("layout", cls) if not r.passed}
    assert "consistent" in failed


TOY = CodeSpace(size=20, rate=RATE, codebooks=3)


def channels(width, codes=TOY, **fields):
    return ChannelsHead(ChannelsHeadConfig(**fields), width=width, codes=codes, extra=1)


@pytest.fixture(scope="module")
def learnt():
    part = XY(XY.Config(), text=TextSpace(vocabulary=40), codes=TOY)
    system = toy_system(part, channels, TOY)
    known = [utterance("hello there", TOY), utterance("go on", TOY)]
    return system, known, learn(system, known, 40)


def test_a_toy_system_learns_and_speaks_three_codebooks(learnt):
    system, known, losses = learnt
    assert losses[0] > 2.0 > 0.1 > losses[-1]
    for text, sample in zip(["hello there", "go on"], known, strict=True):
        record = []
        audio = text_to_speech.say(system, text, record=record)
        assert record[0].codes == list(map(tuple, sample.speech))
        assert record[0].reason == "end"
        assert len(audio.samples) == HOP * len(sample.speech)


def test_a_toy_system_goes_on_from_a_prompt(learnt):
    system, known, _ = learnt
    sample = known[0]
    voice = Voice(text=tuple(sample.text[:6]), speech=tuple(sample.speech[:11]))
    ids = sample.text[6:]
    said = pipeline.Utterance()
    prompt = voice.prompt(system)
    sampler = Sampler(system.sampling, system.decoder.codes)
    codes = pipeline.frames(
        system, [ids], prompt, sampler, prefix(system.model, system.layout, prompt), said
    )
    assert list(codes) == list(map(tuple, sample.speech[11:]))


def test_contract_of_the_head():
    results = check_class("head", ChannelsHead)
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []


def test_an_id_that_says_nothing_adds_nothing():
    head = channels(16)
    with torch.no_grad():
        head.table.weight.fill_(1.0)
    ids = torch.tensor([[3, 20, 20], [20, 20, 20], [1, 2, 3]])
    assert head.embed(ids).sum(-1).tolist() == [16.0, 0.0, 48.0]


@pytest.mark.parametrize("speakers", [1, 10])
def test_there_is_a_mark_for_each_speaker_and_one_before_speech(speakers):
    codes = CodeSpace(size=1024, rate=12.5, codebooks=4)
    layout = XY(XY.Config(speakers=speakers), text=TextSpace(vocabulary=100), codes=codes)
    assert layout.tables == {"speech": 1025, "text": 100, "marks": speakers + 1}
