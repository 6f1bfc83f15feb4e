"""The path of a token with a tiny random system."""

import inspect
from dataclasses import replace

import pytest
import torch
from tiny_system import HOP, Letters, tiny_system

from wishbone.core.contract.errors import UsageError
from wishbone.core.contract.layout import Prompt
from wishbone.core.model.sampling import Sampler
from wishbone.core.model.speech_lm import prefix
from wishbone.core.speak import pipeline, text_to_speech
from wishbone.core.speak import voice as voices
from wishbone.core.speak.utterance import utterances, without_controls
from wishbone.core.speak.voice import Voice

TEXT = "We speak of one thing. Then of another thing altogether! And stop."
FORMS = [
    {"form": "unistream"},
    {"form": "bistream", "pace": "ratio"},
    {"form": "bistream", "pace": "words"},
]


@pytest.mark.parametrize("fields", FORMS)
def test_say_is_the_stream_drained(fields):
    system = tiny_system(**fields)
    whole = text_to_speech.say(system, TEXT, seed=3)
    chunks = list(text_to_speech.stream(system, TEXT, seed=3))
    assert len(chunks) > 3 and torch.equal(torch.cat(chunks), whole.samples)
    assert whole.sample_rate == 24_000 and whole.samples.abs().max() <= 1
    other = text_to_speech.say(system, TEXT, seed=4).samples
    assert len(other) != len(whole.samples) or not torch.equal(other, whole.samples)


def test_arriving_text_gives_the_same_samples():
    system = tiny_system()
    arriving = text_to_speech.stream(system, iter(TEXT), seed=1)
    assert torch.equal(torch.cat(list(arriving)), text_to_speech.say(system, TEXT, seed=1).samples)


class Certain(Letters):
    """Letters that are certain of all but the last word, and close nothing."""

    def encode(self, text):
        return [ord(letter) - 96 for letter in text.lower() if letter.isalpha()]

    def settled(self, text):
        return max(text.rfind(" "), 0)


def test_ids_of_arriving_text_come_word_by_word_and_the_record_has_them():
    taken = []

    def writer():
        for word in "We speak of one thing. Then stop.".split():
            taken.append(word)
            yield f"{word} "

    system = replace(tiny_system(), tokenizer=Certain())
    (first, pieces), *others = utterances(system, "We speak of one thing. Then stop.")
    assert [list(ids) for ids in pieces] == [first.ids] and len(others) == 1
    arriving = utterances(system, writer())
    utterance, pieces = next(arriving)
    given = [next(iter(pieces))]
    assert len(taken) < 4 and utterance.ids == list(given[0])
    given += pieces
    assert len(given) > 2 and [row for ids in given for row in ids] == utterance.ids == first.ids
    assert utterance.text == "We speak of one thing."
    assert [list(ids) for _, pieces in arriving for ids in pieces] != []


@pytest.mark.parametrize("own", [(), (1, 2)])
def test_a_speaker_that_was_drawn_speaks_all_sentences(monkeypatch, own):
    system, asked, prefixes = tiny_system(), [], []
    draw, before = text_to_speech.frames, text_to_speech.prefix

    def frames(system, ids, prompt, draws, state, utterance, *rest):
        asked.append(prompt.global_codes)
        yield from draw(system, ids, prompt, draws, state, utterance, *rest)
        utterance.global_codes = prompt.global_codes or (8, len(asked))

    def prefix(model, layout, prompt):
        prefixes.append(prompt.global_codes)
        return before(model, layout, prompt)

    monkeypatch.setattr(text_to_speech, "frames", frames)
    for module in (text_to_speech, voices):
        monkeypatch.setattr(module, "prefix", prefix)
    record = []
    text_to_speech.say(system, TEXT, Voice(global_codes=own), record=record)
    (speaker,) = {utterance.global_codes for utterance in record}
    assert len(record) == 3 and asked[0] == own and asked[-2:] == [speaker] * 2
    # the state before the text is made again where the speaker is new
    assert prefixes == ([own] if own else [(), speaker])


def test_the_first_sound_needs_only_the_first_sentence():
    def arriving():
        yield "We speak of one thing. T"
        raise RuntimeError("the rest never came")

    chunks = text_to_speech.stream(tiny_system(), arriving())
    assert len(next(chunks)) > 0


def test_record_holds_what_was_spoken():
    system, record = tiny_system(), []
    audio = text_to_speech.say(system, TEXT, record=record)
    assert [u.text for u in record] == [
        "We speak of one thing.", "Then of another thing altogether!", "And stop."
    ]  # fmt: skip
    assert all(u.reason in ("end", "length") and u.codes for u in record)
    # what prints a record shows no tokenizer
    assert "tokenizer" not in repr(record[0])
    frames = sum(len(u.codes) for u in record)
    pauses = 2 * round(text_to_speech.PAUSE * 24_000)
    assert len(audio.samples) == HOP * frames + pauses


def test_every_sentence_starts_from_the_voice_not_from_the_last_sentence():
    fields = {"sampling": None}
    system = tiny_system(**fields)
    system.sampling.greedy = True
    record = []
    text_to_speech.say(system, "Go home now. Stay there. Go home now.", record=record)
    assert record[0].codes == record[2].codes != record[1].codes


def test_prompt_prefix_is_computed_once():
    system = tiny_system()
    voice = Voice(text=tuple([1, 2, 27] * 8), speech=tuple([(3,)] * 40))
    text_to_speech.say(system, TEXT, voice)
    long = [length for length in system.model.backbone.calls if length > 40]
    assert len(long) == 1


def test_a_request_leaves_no_trace():
    system = tiny_system()
    before = text_to_speech.say(system, TEXT, seed=1).samples
    text_to_speech.say(system, "Something else.", seed=9)
    torch.manual_seed(77)
    half = text_to_speech.stream(system, TEXT, seed=5)
    next(half)
    assert torch.equal(text_to_speech.say(system, TEXT, seed=1).samples, before)


def test_the_callers_gradient_mode_is_left_alone():
    chunks = text_to_speech.stream(tiny_system(), TEXT)
    chunk = next(chunks)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert not chunk.requires_grad
    chunk += 1


def test_codes_go_to_the_decoder_in_growing_groups():
    system = tiny_system(word_base=40)
    system.sampling.greedy = True
    record = []
    text_to_speech.say(system, "We go.", record=record)
    pushed, sizes = system.decoder.streams[0].pushed, list(pipeline.GROUPS)
    assert sum(pushed) == len(record[0].codes) > sum(sizes)
    assert pushed[:4] == sizes and set(pushed[4:-1]) <= {25}


def test_a_decoder_gets_as_many_codes_as_it_wants(monkeypatch):
    system = tiny_system(word_base=40)
    system.sampling.greedy = True
    text_to_speech.say(system, "We go.")
    stream = type(system.decoder.streams[0])
    monkeypatch.setattr(stream, "wants", lambda self: 3 if len(self.pushed) < 2 else 0)
    text_to_speech.say(system, "We go.")
    assert system.decoder.streams[1].pushed[:4] == [3, 3, *pipeline.GROUPS[:2]]


@pytest.mark.parametrize("text", ["", "   ", "?!...", []])
def test_nothing_to_speak_is_an_error(text):
    with pytest.raises(UsageError, match="Nothing in the text"):
        text_to_speech.say(tiny_system(), text)


def test_ten_thousand_characters():
    system, record = tiny_system(word_base=1, word_per_id=0), []
    text_to_speech.say(system, "so it goes on and on, " * 455, record=record)
    assert sum(len(u.ids) for u in record) == 455 * (15 + 6)
    assert len(record) > 10


def test_pieces_of_ids_are_taken_only_when_the_layout_wants_them():
    system, taken = tiny_system(lookahead_words=1), []

    def pieces():
        for word in ([1, 27], [2, 27], [3, 27], [4, 27], [5, 28]):
            taken.append(word)
            yield word

    sampler = Sampler(system.sampling, system.decoder.codes)
    begin = prefix(system.model, system.layout, Prompt())
    utterance = pipeline.Utterance()
    codes = pipeline.frames(system, pieces(), Prompt(), sampler, begin, utterance)
    next(codes)
    assert len(taken) == 3
    list(codes)
    assert len(taken) == 5 and utterance.reason
    assert torch.equal(begin["h"], prefix(system.model, system.layout, Prompt())["h"])


def test_it_fits_on_a_page_or_three():
    assert len(inspect.getsource(pipeline).splitlines()) < 180


@pytest.mark.parametrize("size", [1, 3, 100])
def test_controls_in_a_text_steer_nothing(monkeypatch, size):
    system = tiny_system()
    space = replace(Letters.space, specials={"<|endofprompt|>": 26, "[laughter]": 25})
    monkeypatch.setattr(system.tokenizer, "space", space)
    text, record, plain = "we <|endofprompt|> go <|end on.<|endofprompt", [], []
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert "".join(without_controls(pieces, space)) == "we   go <|end on.<|endofprompt"
    assert without_controls(text, space) == "we   go <|end on.<|endofprompt"
    assert without_controls("ha [laughter]", space) == "ha [laughter]"
    text_to_speech.say(system, pieces, record=record)
    text_to_speech.say(system, "we go <|end on.<|endofprompt", record=plain)
    assert [u.codes for u in record] == [u.codes for u in plain]
