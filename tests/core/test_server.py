"""Many requests at once: each says what it says alone."""

import gc
import threading
import time

import pytest
import torch
from tiny_system import tiny_system

from wishbone.core.contract.errors import UsageError
from wishbone.core.speak import server as server_module
from wishbone.core.speak import text_to_speech
from wishbone.core.speak.server import Cancelled, Request, Server
from wishbone.core.speak.voice import Voice
from wishbone.core.testing import trained_looking_
from wishbone.plugins.rwkv7.backbone import RWKV7
from wishbone.plugins.transformer.backbone import Transformer

LINES = [
    "We speak of one thing. Then of another thing altogether!",
    "Go.",
    "A voice says what it has to say and nothing more than that.",
    "So it is. So it was. So it goes on.",
    "Nobody waits for long.",
    "The last of them.",
]
FORMS = [
    {"form": "unistream", "min_code_ratio": 1, "max_code_ratio": 2},
    {"form": "bistream", "pace": "ratio", "min_code_ratio": 3, "max_code_ratio": 4},
    {"form": "bistream", "pace": "words"},
]
VOICE = Voice(text=(1, 2, 27) * 4, speech=((3,), (9,)) * 16)


def system_with(cls=None, **fields):
    system = tiny_system(**fields)
    if cls:
        config = cls.small_config()
        config.width = system.model.backbone.width
        if cls is Transformer:
            config.heads, config.kv_heads = 4, 2
        torch.manual_seed(1)
        system.model.backbone = trained_looking_(cls(config), 0).eval()
    return system.model.requires_grad_(False) and system


def codes(record):
    return [utterance.codes for utterance in record]


def expected(system):
    records = []
    for seed, line in enumerate(LINES):
        record = []
        audio = text_to_speech.say(system, line, VOICE if seed == 2 else None, seed, record)
        records.append((codes(record), audio.samples))
    return records


def requests():
    return [Request(line, VOICE if n == 2 else None, n) for n, line in enumerate(LINES)]


@pytest.mark.parametrize("cls", [None, RWKV7, Transformer])
@pytest.mark.parametrize("fields", FORMS)
def test_a_request_says_in_company_what_it_says_alone(cls, fields):
    system = system_with(cls, **fields)
    server = Server(system, slots=4)
    said = {one.number: one for one in server.say(requests())}
    for number, (frames, samples) in enumerate(expected(system)):
        assert codes(said[number].utterances) == frames
        assert torch.equal(said[number].audio.samples, samples)
    positions = sum(len(c) for one in said.values() for c in codes(one.utterances))
    assert 0 < server.steps < positions
    assert server.pool.free == 4


@pytest.mark.parametrize("together", [0, 1, 3])
def test_positions_that_go_alone_say_what_they_say_together(monkeypatch, together):
    alone = []
    prefill = server_module._SlotModel.prefill

    def counted(row, positions):
        alone.append(len(positions))
        return prefill(row, positions)

    monkeypatch.setattr(server_module, "TOGETHER", together)
    monkeypatch.setattr(server_module._SlotModel, "prefill", counted)
    system = system_with(RWKV7, form="bistream", pace="ratio", min_code_ratio=3, max_code_ratio=4)
    server = Server(system, slots=4)
    assert server.steps == 0
    said = {one.number: one for one in server.say(requests())}
    for number, (frames, samples) in enumerate(expected(system)):
        assert codes(said[number].utterances) == frames
        assert torch.allclose(said[number].audio.samples, samples, atol=1e-5)
    assert alone and max(alone) > together


def test_a_narrow_store_changes_what_is_said_only_a_little():
    """Negative control of the comparison above: rounding the state moves some draw."""
    system = system_with(RWKV7, word_base=30)
    plain = {s.number: codes(s.utterances) for s in Server(system, 6).say(requests())}
    kinds = {".wkv": torch.float8_e4m3fn}
    coarse = {s.number: codes(s.utterances) for s in Server(system, 6, kinds).say(requests())}
    assert plain != coarse


def test_one_seat_is_enough_and_the_rest_waits():
    system = system_with()
    said = {one.number: codes(one.utterances) for one in Server(system, slots=1).say(requests())}
    assert [said[n] for n in range(len(LINES))] == [frames for frames, _ in expected(system)]


def test_a_stream_gives_chunks_that_are_the_whole():
    system = system_with()
    chunks = list(Server(system, 2).stream(LINES[0], seed=0))
    assert len(chunks) > 3
    assert torch.equal(torch.cat(chunks), text_to_speech.say(system, LINES[0], seed=0).samples)


def test_without_a_seed_it_is_that_of_the_library():
    system = system_with()
    (said,) = Server(system, 2).say([LINES[1]])
    alone = text_to_speech.say(system, LINES[1]).samples
    assert torch.equal(said.audio.samples, alone)
    assert torch.equal(torch.cat(list(Server(system, 2).stream(LINES[1]))), alone)


def test_who_does_not_listen_holds_nobody_up():
    system = system_with()
    server = Server(system, slots=2)
    slow = server.stream(LINES[0], seed=0)
    first = next(slow)
    fast = torch.cat(list(server.stream(LINES[3], seed=3)))
    assert torch.equal(fast, text_to_speech.say(system, LINES[3], seed=3).samples)
    rest = torch.cat([first, *slow])
    assert torch.equal(rest, text_to_speech.say(system, LINES[0], seed=0).samples)


def test_who_waits_for_text_holds_nobody_up():
    system, more, out = system_with(), threading.Event(), []

    def arriving():
        yield "We speak of one thing. Th"
        assert more.wait(20)
        yield "en of another thing altogether!"

    server = Server(system, slots=2)
    job = threading.Thread(target=lambda: out.extend(server.stream(arriving(), seed=0)))
    job.start()
    try:
        time.sleep(0.05)
        assert len(list(server.stream(LINES[3], seed=3))) > 1
    finally:
        more.set()
        job.join(20)
    assert torch.equal(torch.cat(out), text_to_speech.say(system, LINES[0], seed=0).samples)


def test_a_stream_that_is_dropped_gives_its_slot_back():
    server = Server(system_with(), slots=1)
    stream = server.stream(LINES[0])
    next(stream)
    stream.close()
    assert server.pool.free == 1
    assert len(list(server.stream(LINES[1]))) > 0


def test_a_stream_that_is_cancelled_ends_before_its_next_step():
    system = system_with()
    server, answers = Server(system, slots=2), iter([False] * 5)
    stream = server.stream(LINES[2], seed=2, cancelled=lambda: next(answers, True))
    with pytest.raises(Cancelled):
        list(stream)
    assert server.pool.free == 2 and 0 < server.steps <= 5
    whole = torch.cat(list(server.stream(LINES[2], seed=2, cancelled=lambda: False)))
    assert torch.equal(whole, text_to_speech.say(system, LINES[2], seed=2).samples)


def test_several_positions_of_a_stream_are_cancelled_between_two_steps():
    """A word's ids wait together; nobody takes the rest of them when the listener has gone."""
    server = Server(system_with(), slots=2)
    gone, positions = threading.Event(), []
    step = server.pool.step

    def braked(slots, x):
        (row,) = server._submitted
        positions.append(len(row.positions))
        if row.positions:
            gone.set()
        return step(slots, x)

    server.pool.step = braked
    with pytest.raises(Cancelled):
        list(server.stream(LINES[2], seed=2, cancelled=gone.is_set))
    # the step in which others still waited is the last
    assert positions[-1] > 0 and not any(positions[:-1])
    assert server.pool.free == 2


def test_a_request_that_fails_leaves_the_others_alone():
    system = system_with()
    server = Server(system, slots=2)
    with pytest.raises(UsageError, match="Nothing in the text"):
        list(server.stream("?!..."))
    assert torch.equal(
        torch.cat(list(server.stream(LINES[4], seed=4))),
        text_to_speech.say(system, LINES[4], seed=4).samples,
    )


def test_a_step_that_fails_tells_everyone(monkeypatch):
    server = Server(system_with(), slots=3)
    monkeypatch.setattr(server.pool, "step", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(server.say(LINES[:3]))
    assert server.pool.free == 3


def test_a_bad_request_is_a_failed_result_and_the_others_are_spoken():
    system = system_with()
    broken = Voice(text=(1,), speech=((3, 4),))
    requests = [LINES[0], Request(LINES[1], broken), "?!...", Request(LINES[3], seed=2)]
    results = {one.number: one for one in Server(system, slots=2).say(requests)}
    assert sorted(results) == [0, 1, 2, 3]
    assert [results[n].error is None for n in range(4)] == [True, False, False, True]
    assert "codebooks" in results[1].error.what and len(results[1].audio.samples) == 0
    assert isinstance(results[2].error, UsageError)
    alone = text_to_speech.say(system, LINES[3], seed=2).samples
    assert torch.equal(results[3].audio.samples, alone)


def raising():
    yield "We go "
    raise OSError("the line is dead")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (["We go.", None, "More."], "NoneType, not str"),
        ([b"We go."], "bytes, not str"),
        (None, "OSError: the line is dead"),
    ],
)
@pytest.mark.parametrize("served", [True, False])
def test_a_source_of_something_else_is_named(source, said, served):
    system, server = system_with(), Server(system_with(), slots=1)
    source = source if isinstance(source, list) else raising()
    with pytest.raises(UsageError, match=said):
        list(server.stream(source) if served else text_to_speech.stream(system, source))
    assert server.pool.free == 1


def test_a_stream_that_is_never_started_or_abandoned_holds_no_slot():
    server = Server(system_with(), slots=1)
    never = server.stream(LINES[0])
    abandoned = server.stream(LINES[0])
    next(abandoned)
    del never, abandoned
    gc.collect()
    assert server.pool.free == 1
    assert len(list(server.stream(LINES[1]))) > 0
