"""Arms of one system in several manners: each speaks as asked, and their codes are compared."""

from dataclasses import replace

import numpy as np
import pytest
from test_ab_files import write
from test_ab_parts import plan
from tiny_system import tiny_system

from wishbone.core.config.compose import Config
from wishbone.core.contract.errors import ConfigError, DataError, UsageError
from wishbone.core.evaluate.experiment import config_diff, generate
from wishbone.core.evaluate.experiment.arms import Arm
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import read_plan
from wishbone.core.evaluate.result import Prompt
from wishbone.core.evaluate.sources.manner import Manner
from wishbone.core.evaluate.sources.parity import compared, parity
from wishbone.core.evaluate.sources.source import SystemSource
from wishbone.core.evaluate.sources.speak_missing import speak_prompt
from wishbone.core.speak import text_to_speech
from wishbone.core.speak.server import Server


@pytest.fixture(autouse=True)
def nothing_is_drawn_again(monkeypatch):
    """A whole piece may be drawn again, which a streamed one may not once it was heard."""
    monkeypatch.setattr(text_to_speech, "trouble_of", lambda *_: "")


PROMPT = Prompt("000", "we speak of one thing")


def frames(*codes):
    return np.array(codes)[:, None]


def test_codes_are_compared_frame_by_frame():
    pairs = [
        (frames(1, 2, 3, 4), frames(1, 2, 3, 4)),
        (frames(1, 2, 3, 4), frames(1, 9, 3, 4)),
        (frames(1, 2, 3), frames(1, 2, 3, 4)),
    ]
    result = compared("new", "old", pairs)
    assert (result.items, result.alike, result.frames, result.matched) == (3, 1, 12, 10)
    assert (result.before, result.first, result.middle) == (4 + 1 + 3, 1, 2.0)
    assert result.share == pytest.approx(10 / 12)
    same = compared("new", "old", pairs[:1])
    assert (same.first, same.middle, same.share) == (None, None, 1.0)
    # a frame of several codebooks is the same where all of them are
    wide = compared("new", "old", [(np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]]))])
    assert (wide.matched, wide.first) == (1, 1)


def spoken(manner, seed=3):
    return SystemSource(tiny_system(), manner).speak(PROMPT, seed, None)


def test_every_manner_draws_the_same_codes():
    """The tiny system has no engine, so that nothing may change what is drawn."""
    usual = spoken(Manner())
    assert usual.codes and len(usual.audio) == usual.generation.seconds * usual.rate
    for manner in (Manner(batch=3), Manner(whole=True), Manner(arriving=True)):
        other = spoken(manner)
        assert list(other.codes) == list(usual.codes), manner
        np.testing.assert_allclose(other.audio, usual.audio, atol=1e-6)
    # negative control: another seed is other codes
    assert list(spoken(Manner(), 4).codes) != list(usual.codes)


def test_a_batch_is_full_while_its_item_is_spoken(monkeypatch):
    widths = []
    step = Server._step

    def counted(self, rows):
        widths.append(len(rows))
        return step(self, rows)

    monkeypatch.setattr(Server, "_step", counted)
    generation = spoken(Manner(batch=3)).generation
    assert max(widths) == 3
    # whose requests share the processor's time
    assert generation.processor is None and generation.rtf > 0


def test_whole_gives_the_decoder_all_codes_at_once(monkeypatch):
    sizes = []

    def watched(manner):
        system = tiny_system()
        start = system.decoder.start

        def counting(**options):
            stream = start(**options)
            push = stream.push
            stream.push = lambda codes: sizes.append(len(codes)) or push(codes)
            return stream

        monkeypatch.setattr(system.decoder, "start", counting)
        return SystemSource(system, manner).speak(PROMPT, 3, None)

    count = len(watched(Manner()).codes)
    assert len(sizes) > 1 and sum(sizes) == count
    sizes.clear()
    watched(Manner(whole=True))
    assert sizes == [count]


def test_arriving_text_comes_word_by_word(monkeypatch):
    texts = []
    stream = generate.stream

    def listening(system, text, *rest):
        texts.append(text if isinstance(text, str) else list(text))
        return stream(system, texts[-1], *rest)

    monkeypatch.setattr(generate, "stream", listening)
    spoken(Manner()), spoken(Manner(arriving=True))
    assert texts == [PROMPT.text, [f"{word} " for word in PROMPT.text.split()]]


def two_manners(**manner):
    arms = [Arm(key, key, Config({"weights": "w"})) for key in ("old", "new")]
    return replace(plan(prompts=2), arms=[arms[0], replace(arms[1], manner=Manner(**manner))])


def test_a_run_keeps_its_codes_and_says_what_is_the_same(tmp_path):
    given, items = two_manners(whole=True), Items(tmp_path / "items.jsonl")
    sources = {key: SystemSource(tiny_system()) for key in ("old", "new")}
    for prompt in given.prompts:
        speak_prompt(given, items, tmp_path, prompt, 0, [["old", "new"]], sources)
    (one,) = parity(items, given, tmp_path)
    assert (one.arm, one.items, one.alike, one.share) == ("new", 2, 2, 1.0)
    path = tmp_path / "audio" / "new" / "001-0.npy"
    codes = np.load(path)
    codes[0] += 1
    np.save(path, codes)
    (one,) = parity(items, given, tmp_path)
    assert (one.alike, one.first, one.matched) == (1, 0, one.frames - 1)
    # nothing is said of other systems, nor without files
    other = replace(given, arms=[given.arms[0], Arm("new", "new", Config({"weights": "x"}))])
    assert parity(items, other, tmp_path) is None
    path.write_bytes(b"torn")
    with pytest.raises(DataError, match="damaged"):
        parity(items, given, tmp_path)
    path.unlink()
    (one,) = parity(items, given, tmp_path)
    assert one.items == 1


def test_a_manner_is_no_confound_and_makes_another_run():
    given = two_manners(engine="eager", batch=2)
    rows = {row.key: row for row in config_diff.differences(given)}
    assert set(rows) == {"manner.engine", "manner.batch"} and all(r.meant for r in rows.values())
    assert given.fingerprint() != two_manners(engine="eager").fingerprint()
    assert Manner(batch=2, whole=True).suffix == ", batch of 2, decoded at once"


@pytest.mark.parametrize(
    ("manner", "kind", "message"),
    [("engine: fast", UsageError, "'fast' is not an engine"), ("batch: -1", ConfigError, "batch")],
)
def test_a_wrong_manner_is_named(tmp_path, manner, kind, message):
    text = f"arms: {{a: quickstart-rwkv7, b: {{system: quickstart-rwkv7, {manner}}}}}\n"
    with pytest.raises(kind, match=message):
        read_plan(write(tmp_path, text))
