"""The guard while speaking: what is wrong is drawn again, as often as it may, and reported."""

import pytest
import torch
from tiny_system import CODES, Letters, tiny_system

from wishbone.core.contract.session import Draw, Emit, Feed, NeedText, SteppedSession, Stop
from wishbone.core.model.sampling import Sampling
from wishbone.core.speak import pipeline, text_to_speech
from wishbone.core.speak.server import Request, Server

WORD, SENTENCE = "hello", "hello there my friend"


class Scripted(SteppedSession):
    """Emits the codes of the next script, whatever is drawn."""

    def __init__(self, scripts):
        super().__init__()
        self.scripts = scripts

    def _run(self):
        yield Feed([(2, (0,))])
        while not self._ended:
            yield NeedText()
        yield Feed([(1, (row,)) for row in self._text])
        codes, reason = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        for code in codes:
            yield from self._draw(Draw())
            yield Emit((code,))
            yield Feed([(0, (code,))])
        yield Stop(reason)


GOOD, SHORT = (list(range(12)), "end"), ([3, 4], "end")
LOOPING, ENDLESS = ([1, 2, 3, 4, 5] + [9, 8] * 400, "length"), (list(range(30)), "length")


DRAWS = 6
"""Draws of a lone word in these tests, whose scripts are as many."""


@pytest.fixture
def scripted(monkeypatch):
    """A tiny system whose sessions emit scripts, one after another."""

    def make(*scripts):
        system, todo = tiny_system(), [*scripts]

        def start(prompt):
            # the state after a prompt has a session of its own, which speaks nothing
            return Scripted(todo)

        monkeypatch.setattr(system.layout, "start", start)
        system.sampling.lone_word_draws = DRAWS
        return system

    return make


@pytest.mark.parametrize(
    "bad, trouble", [(SHORT, "too short"), (LOOPING, "repeats"), (ENDLESS, "never stopped")]
)
def test_a_word_in_trouble_is_drawn_again_and_its_sound_is_the_good_one(scripted, bad, trouble):
    record, plain = [], []
    audio = text_to_speech.say(scripted(bad, bad, GOOD), WORD, record=record)
    alone = text_to_speech.say(scripted(GOOD), WORD, record=plain)
    assert record[0].redraws == [trouble] * 2 and record[0].trouble == ""
    assert record[0].codes == plain[0].codes and torch.equal(audio.samples, alone.samples)
    assert plain[0].redraws == []


def quieten(monkeypatch, system, frames):
    """Let so many code frames of the first draw be silent."""
    streams, start = [], system.decoder.start

    def quiet_at_first(**options):
        streams.append(start(**options))
        if len(streams) == 1:
            sound, done = streams[0].sound, []

            def soft(codes):
                done.extend(codes)
                return (0.001 if len(done) <= frames else 1.0) * sound(codes)

            streams[0].sound = soft
        return streams[-1]

    monkeypatch.setattr(system.decoder, "start", quiet_at_first)
    return streams


@pytest.mark.parametrize("text", [WORD, SENTENCE])
def test_what_is_silent_is_drawn_again(scripted, monkeypatch, text):
    script = (list(range(30)), "end")
    record, system = [], scripted(script, GOOD)
    quieten(monkeypatch, system, 30)
    audio = text_to_speech.say(system, text, record=record)
    assert record[0].redraws == ["silent"] and audio.samples.abs().max() > 0.1
    assert record[0].trouble == "" and record[0].codes == [(code,) for code in GOOD[0]]
    # the silence of a sentence was given out before it was one, so the words are as much later
    silence = 0 if text == WORD else len(text_to_speech.say(scripted(script), text).samples)
    assert record[0].begin == silence / system.decoder.sample_rate
    assert not (audio.samples[:silence].abs() >= text_to_speech.QUIET).any()


def test_a_sentence_that_stays_silent_is_drawn_as_often_as_one_may(scripted, monkeypatch):
    record, system = [], scripted(GOOD)
    monkeypatch.setattr(text_to_speech, "QUIET", 10.0)
    text_to_speech.say(system, SENTENCE, record=record)
    assert record[0].redraws == ["silent"] * (text_to_speech.TRIES - 1)
    assert record[0].trouble == "silent" and len(system.decoder.streams) == text_to_speech.TRIES


def test_a_silent_beginning_is_no_trouble(scripted, monkeypatch):
    # as a breath is; what follows is heard
    system, record = scripted((list(range(30)), "end")), []
    streams = quieten(monkeypatch, system, sum(pipeline.GROUPS[:2]))
    chunks = list(text_to_speech.stream(system, SENTENCE, record=record))
    assert chunks[0].abs().max() < text_to_speech.QUIET
    assert record[0].redraws == [] and record[0].trouble == "" and len(streams) == 1


def test_tries_are_bounded_and_what_is_left_is_reported(scripted):
    record = []
    text_to_speech.say(scripted(SHORT), WORD, record=record)
    assert record[0].redraws == ["too short"] * (DRAWS - 1)
    assert record[0].trouble == "too short" and len(record[0].codes) == 2


def test_a_sentence_has_fewer_tries_than_a_lone_word(scripted):
    record = []
    text_to_speech.say(scripted(([1], "end")), SENTENCE, record=record)
    assert record[0].redraws == ["too short"] * (text_to_speech.TRIES - 1)


def test_a_loop_is_left_as_soon_as_it_is_one(scripted, monkeypatch):
    drawn, system = [], scripted(LOOPING, GOOD)
    draw = text_to_speech.frames
    monkeypatch.setattr(
        text_to_speech, "frames", lambda *a: (drawn.append(f) or f for f in draw(*a))
    )
    text_to_speech.say(system, WORD)
    # five good draws of 12 codes follow
    assert 0 < len(drawn) < 5 * 12 + 5 + 2 * CODES.rate


def test_what_was_given_out_stays_and_is_noted(scripted):
    record, system = [], scripted(LOOPING, GOOD)
    chunks = list(text_to_speech.stream(system, SENTENCE, record=record))
    assert len(chunks) > 2 and len(record[0].codes) == 805
    assert record[0].redraws == [] and record[0].trouble == "repeats"


def test_a_sentence_that_is_over_before_its_first_chunk_is_drawn_again(scripted):
    record = []
    text_to_speech.say(scripted(([1], "end"), GOOD), SENTENCE, record=record)
    assert record[0].redraws == ["too short"] and len(record[0].codes) == 12


def test_an_ordinary_sentence_waits_for_no_more_than_its_first_chunk(scripted):
    record = []
    stream = text_to_speech.stream(scripted(GOOD), SENTENCE, record=record)
    next(stream)
    assert len(record[0].codes) == pipeline.GROUPS[0]


def test_later_tries_have_seeds_of_their_own_and_the_same_each_time():
    seeds = [text_to_speech.seed_of(7, piece, time) for piece in range(3) for time in range(1, 4)]
    assert len({7, *seeds}) == 10 and text_to_speech.seed_of(7, 2, 0) == 7
    assert seeds == [
        text_to_speech.seed_of(7, piece, time) for piece in range(3) for time in range(1, 4)
    ]


def alone(scripted, scripts):
    """Each script as the only draw of the seed that it would have among several."""
    drafts = []
    for number, script in enumerate(scripts):
        system, record = scripted(script), []
        system.sampling.lone_word_draws = 1
        text_to_speech.say(system, WORD, seed=text_to_speech.seed_of(3, 0, number), record=record)
        assert not record[0].redraws and not record[0].trouble
        drafts.append(record[0])
    return drafts


def test_of_several_draws_of_a_lone_word_the_likeliest_is_spoken(scripted):
    scripts = [([*range(size)], "end") for size in (13, 14, 16, 18, 20, 15)]
    drafts = alone(scripted, scripts)
    chances = [draft.log_probability for draft in drafts]
    best = max(range(6), key=chances.__getitem__)
    assert len(set(chances)) == 6 and best not in (0, 5)
    record = []
    audio = text_to_speech.say(scripted(*scripts), WORD, seed=3, record=record)
    assert (record[0].codes, record[0].log_probability) == (drafts[best].codes, chances[best])
    system = scripted(scripts[best])
    system.sampling.lone_word_draws = 1
    assert torch.equal(audio.samples, text_to_speech.say(system, WORD, seed=3).samples)


def test_a_draw_that_is_cut_short_has_to_be_much_likelier(scripted):
    # 24 codes are 0.96 s; 9 are 0.12 s less than a lone word takes, which costs 0.6 nats
    scripts = [([*range(9)], "end")] * 5 + [([*range(24)], "end")]
    drafts = alone(scripted, scripts)
    lead = max(draft.log_probability for draft in drafts[:5]) - drafts[5].log_probability
    assert 0 < lead < text_to_speech.SHORT_COST * 0.12
    record = []
    text_to_speech.say(scripted(*scripts), WORD, seed=3, record=record)
    assert len(record[0].codes) == 24


def test_a_draw_in_trouble_is_never_the_likeliest(scripted):
    record = []
    text_to_speech.say(scripted(GOOD, *[SHORT] * 5), WORD, record=record)
    assert record[0].redraws == ["too short"] * 5 and record[0].trouble == ""
    assert len(record[0].codes) == 12


@pytest.mark.parametrize("rules", [{"greedy": True}, {"temperature": 0.0}, {"lone_word_draws": 1}])
def test_a_lone_word_is_drawn_once_where_more_would_be_the_same_or_unwanted(scripted, rules):
    system = scripted(GOOD, LOOPING)
    for name, value in rules.items():
        setattr(system.sampling, name, value)
    record = []
    text_to_speech.say(system, WORD, record=record)
    assert record[0].redraws == [] and len(system.decoder.streams) == 1


def test_a_sentence_is_drawn_once(scripted):
    system = scripted(GOOD)
    text_to_speech.say(system, SENTENCE)
    assert len(system.decoder.streams) == 1


TINY = {"lone_word": "again", "word_base": 1, "word_per_id": 1}


def test_stream_server_and_arriving_text_are_drawn_again_alike():
    # a tiny model with random weights mostly runs on, so that most words are drawn again
    system, text, record = tiny_system(seed=4, **TINY), "Hi. No. Yes.", []
    said = text_to_speech.say(system, text, seed=5, record=record)
    assert any(utterance.redraws for utterance in record)
    again, letters = [], []
    arrived = list(text_to_speech.stream(system, iter(text), seed=5, record=letters))
    assert torch.equal(torch.cat(arrived), said.samples)
    with_others = [Request(text, seed=seed) for seed in (5, 6, 5)]
    spoken = sorted(Server(system, 3).say(with_others), key=lambda request: request.number)
    for request in (spoken[0], spoken[2]):
        again.append([(u.codes, u.redraws, u.trouble) for u in request.utterances])
    assert again[0] == again[1] == [(u.codes, u.redraws, u.trouble) for u in record]
    assert [u.redraws for u in letters] == [u.redraws for u in record]


class Certain(Letters):
    """Its ids of complete words do not depend on what follows; every word ends alike."""

    def encode(self, text):
        return [27 if row == 28 else row for row in super().encode(text)]

    def settled(self, text):
        return text.rfind(" ") + 1


class Hasty(Scripted):
    """Emits its codes after the first word, and reads the others behind them."""

    def _run(self):
        yield Feed([(2, (0,))])
        while not self._text:
            yield NeedText()
        yield Feed([(1, (row,)) for row in self._text])
        for code in self.scripts[0][0]:
            yield from self._draw(Draw())
            yield Emit((code,))
            yield Feed([(0, (code,))])
        yield from self._wait_for_the_end()
        yield Stop(self.scripts[0][1])


@pytest.mark.parametrize("text, draws", [(SENTENCE, 1), (WORD, Sampling().lone_word_draws)])
def test_a_sentence_whose_first_word_came_alone_is_drawn_once(monkeypatch, text, draws):
    system, record = tiny_system(), []
    system.tokenizer = Certain()
    monkeypatch.setattr(system.layout, "start", lambda prompt: Hasty([GOOD]))
    words = [f"{word} " for word in text.split()]
    list(text_to_speech.stream(system, iter(words), record=record))
    assert record[0].text == text and len(record[0].codes) == 12
    assert len(system.decoder.streams) == draws
