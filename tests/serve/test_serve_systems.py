"""A system that is served: its rows, its threads, its own voice, and what it cannot follow."""

import pytest
import serving_toys as toys
from tiny_system import tiny_system

from wishbone.core.contract.errors import CapabilityError, CheckpointError, UsageError
from wishbone.core.model.sampling import Sampling
from wishbone.core.serve import serving_arm
from wishbone.core.serve.refusal import Refusal
from wishbone.core.serve.serving_arm import ServingArm, load_arm
from wishbone.core.serve.settings import Limits
from wishbone.core.speak.voice import Voice


@pytest.fixture
def arm():
    arm = toys.arm()
    yield arm
    arm.threads.shutdown(wait=False)


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 3), (2.0, 6)])
def test_a_guided_request_takes_two_rows(guidance, rows):
    system = tiny_system(sampling=Sampling(guidance=guidance))
    arm = ServingArm.start("tiny", system, Limits(slots=3, queue=5))
    assert arm.server.pool.slots == rows and (arm.gate.slots, arm.gate.queue) == (3, 5)
    assert arm.threads._max_workers == 3 and arm.sample_rate == 24_000
    arm.threads.shutdown()


def test_the_systems_own_voice_is_looked_for_once(arm, monkeypatch):
    asked = []
    real = serving_arm.find
    monkeypatch.setattr(serving_arm, "find", lambda *given: asked.append(given) or real(*given))
    first = arm.voice(None)
    assert arm.voice(None) is first and asked == [(None, arm.system)]
    mine = Voice(name="me")
    assert arm.voice(mine) is mine and arm.fits(mine)


def test_a_voice_of_another_codec_is_refused_in_its_field(arm):
    foreign = Voice(name="me", speech=((1,),), codec="another")
    with pytest.raises(Refusal) as caught:
        arm.voice(foreign)
    assert (caught.value.status, caught.value.param) == (400, "voice")
    assert not arm.fits(foreign)


@pytest.mark.parametrize("error", [CapabilityError, UsageError])
@pytest.mark.parametrize("place", ["instructed", "begin_session"])
def test_instructions_that_are_refused_are_told_in_their_field(arm, monkeypatch, error, place):
    def refuse(*arguments, **options):
        raise error("It follows none.", "here", "Leave them out.")

    monkeypatch.setattr(Voice, "instructed", lambda self, words: self)
    if place == "instructed":
        monkeypatch.setattr(Voice, "instructed", refuse)
    else:
        monkeypatch.setattr(serving_arm, "begin_session", refuse)
    with pytest.raises(Refusal, match="It follows none. Leave them out.") as caught:
        arm.voice(None, "in a whisper")
    assert (caught.value.status, caught.value.param) == (400, "instructions")


def test_instructions_that_are_followed_become_part_of_the_voice(arm, monkeypatch):
    begun = []
    monkeypatch.setattr(serving_arm, "begin_session", lambda *given: begun.append(given))
    monkeypatch.setattr(Voice, "instructed", lambda self, words: Voice(name=words))
    assert arm.voice(None, "softly").name == "softly" and len(begun) == 1
    assert arm.voice(None, "").name != "softly" and len(begun) == 1


@pytest.mark.parametrize(("text", "right"), [("a", True), ("?! a", True), ("?!", False), ("", 0)])
def test_a_text_has_something_to_speak(arm, text, right):
    if right:
        arm.check_text(text)
    else:
        with pytest.raises(Refusal, match="Nothing in input") as caught:
            arm.check_text(text)
        assert (caught.value.status, caught.value.param) == (400, "input")


def test_a_system_speaks_once_before_it_is_ready(monkeypatch):
    asked = []

    def load(source, **options):
        asked.append((source, options))
        return tiny_system()

    monkeypatch.setattr(serving_arm, "load", load)
    arm = load_arm("mine", "there", Limits(slots=2, queue=1), "native", "cpu")
    assert asked == [("there", {"device": "cpu", "engine": "native"})]
    assert arm.name == "mine" and arm.server.steps > 3
    arm.threads.shutdown()


def test_a_system_that_finds_nothing_in_the_text_is_as_warm_as_it_can_be(arm, monkeypatch):
    def nothing(*arguments, **options):
        raise UsageError("There is nothing to speak.", "here", "Give words.")
        yield

    monkeypatch.setattr(arm.server, "stream", nothing)
    arm.warm_up()

    def broken(*arguments, **options):
        raise CheckpointError("It is damaged.", "here", "Make it again.")
        yield

    monkeypatch.setattr(arm.server, "stream", broken)
    with pytest.raises(CheckpointError):
        arm.warm_up()
