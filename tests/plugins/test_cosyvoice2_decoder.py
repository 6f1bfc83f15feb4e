"""CosyVoice2's decoder: what streams is what the whole is, without seams, from its own seed."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from cosyvoice2_reference import GOLDEN
from safetensors.torch import load_file

from wishbone.core.config.compose import Config
from wishbone.core.config.schema import structured
from wishbone.core.contract.errors import ConfigError
from wishbone.core.testing import trained_looking_
from wishbone.plugins.cosyvoice2.decoder import CosyVoice2Decoder
from wishbone.plugins.cosyvoice2.flow.noise import Noises
from wishbone.plugins.cosyvoice2.vocoder import names

SMALL = CosyVoice2Decoder.small_config()
PROMPT, SPOKEN = 9, 22


def made(**changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = CosyVoice2Decoder(replace(SMALL, **changes)).eval().requires_grad_(False)
    trained_looking_(decoder.flow, 1)
    # weights that make voiced and unvoiced sound and clip nothing
    stored = load_file(GOLDEN / "cosyvoice2_hift.safetensors")
    weights = {k.removeprefix("weights."): v.float() for k, v in stored.items() if "weights." in k}
    names.load(decoder.vocoder, weights, "hift.pt")
    return decoder


@pytest.fixture(scope="module")
def decoder():
    return made()


def voice(seed=0, prompt=PROMPT):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 6561, (prompt, 1), generator=generator)
    recording = {"codes": codes, "mel": torch.randn(2 * prompt, 80, generator=generator)}
    return {"speaker": torch.randn(SMALL.speaker, generator=generator), "prompt": recording}


def codes_of(seed=1, count=SPOKEN):
    return torch.randint(0, 6561, (count, 1), generator=torch.Generator().manual_seed(seed))


def pushed(stream, codes, sizes):
    return torch.cat([*(stream.push(piece) for piece in codes.split(sizes)), stream.finish()])


def at_once(decoder, codes, conditioning, seed):
    """Mel and audio of the whole under the streaming mask, without any stream."""
    draw = torch.Generator().manual_seed(seed)
    flow_seed, vocoder_seed = torch.randint(1 << 62, (2,), generator=draw).tolist()
    recording, config = conditioning["prompt"], decoder.config
    before = recording["codes"][:, 0]
    noises = Noises(80, flow_seed)
    noise = torch.cat([noises.under(2 * len(before)), noises.take(2 * len(codes))])
    with torch.inference_mode():
        mel = decoder.flow.solve_all(
            torch.cat([before, codes[:, 0]]), recording["mel"], conditioning["speaker"], noise,
            config.chunk, config.left_chunks, config.steps,
        )[2 * len(before) :]  # fmt: skip
        generator = torch.Generator().manual_seed(vocoder_seed)
        return mel, decoder.vocoder(mel.T[None], generator=generator)[0]


@pytest.mark.parametrize("sizes", [[22], [1] * 22, [0, 5, 16, 1], [3, 3, 3, 13]])
def test_streamed_audio_is_the_whole_under_the_streaming_mask(decoder, sizes):
    codes = codes_of()
    _, complete = at_once(decoder, codes, voice(), seed=4)
    samples = pushed(decoder.start(seed=4, **voice()), codes, sizes)
    assert samples.shape == complete.shape == (SPOKEN * 960,)
    assert (samples - complete).abs().max() < 1e-4


def test_no_seam_and_no_jump_where_pushes_meet(decoder):
    """Differences between neighbours at the joins are among those inside, and so is the level."""
    stream, codes, parts = decoder.start(seed=4, **voice()), codes_of(count=40), []
    while len(codes):
        missing = stream.wants()
        parts.append(stream.push(codes[:missing]))
        codes = codes[missing:]
    parts.append(stream.finish())
    parts = [part for part in parts if len(part)]
    assert len(parts) > 7
    audio = torch.cat(parts)
    step = audio.diff().abs()
    joins = torch.tensor([len(part) for part in parts[:-1]]).cumsum(0) - 1
    inside = torch.ones(len(step), dtype=torch.bool)
    inside[joins] = False
    assert step[joins].max() <= step[inside].max()
    assert step[joins].mean() < 2 * step[inside].mean()
    # the control: upstream's way, whose windows sum to 1.08 over a whole overlap, is noticed
    _, complete = at_once(decoder, codes_of(count=40), voice(), seed=4)
    assert (audio - complete).abs().max() < 1e-4
    jump = audio.clone()
    jump[joins[2] + 1 : joins[2] + 3841] *= 1.08
    assert (jump - complete).abs().max() > 1e-3


def test_the_first_sound_comes_as_early_as_it_can(decoder):
    """A prompt of 9 is one code into its third chunk, which 3 more fill and 3 more are seen by.

    Two codes complete its second chunk, which is then solved without waiting for the third.
    """
    codes, stream = codes_of(), decoder.start(seed=4, **voice())
    assert stream.wants() == 2
    mels, push = [], stream._voice.push
    stream._voice.push = lambda mel: mels.append(mel.shape[1]) or push(mel)
    for code in codes.split(1):
        stream.push(code)
    assert [i + 1 for i, count in enumerate(mels) if count] == [6, 10, 14, 18, 22]
    assert [count for count in mels if count] == [6, 8, 8, 8, 8]


@pytest.mark.parametrize("first", [[], [2, 3, 4], [7]])
def test_lookahead_is_what_it_claims(first):
    decoder = made(first_chunks=first)
    codes, other = codes_of(), codes_of()
    changed = 20
    other[changed:] = (other[changed:] + 1234) % 6561
    one = pushed(decoder.start(seed=4, **voice()), codes, [22])
    two = pushed(decoder.start(seed=4, **voice()), other, [22])
    same = (changed - decoder.lookahead) * 960
    assert same > 0 and torch.equal(one[:same], two[:same])
    assert not torch.equal(one, two)


def test_a_second_request_beside_it_changes_nothing(decoder):
    codes, other = codes_of(), codes_of(7)
    alone = pushed(decoder.start(seed=4, **voice()), codes, [6, 16])
    for conditioning in (voice(), voice(5)):
        first, second = decoder.start(seed=4, **voice()), decoder.start(seed=9, **conditioning)
        parts = []
        for one, two in zip(codes.split([6, 16]), other.split([6, 16]), strict=True):
            second.push(two)
            parts.append(first.push(one))
        second.finish()
        assert torch.equal(torch.cat([*parts, first.finish()]), alone)


def test_seed_speaker_prompt_and_codes_all_matter(decoder):
    codes, conditioning = codes_of(), voice()
    samples = pushed(decoder.start(seed=4, **conditioning), codes, [22])
    assert torch.equal(pushed(decoder.start(seed=4, **conditioning), codes, [22]), samples)
    for other in (
        pushed(decoder.start(seed=5, **conditioning), codes, [22]),
        pushed(decoder.start(seed=4, **(conditioning | {"speaker": None})), codes, [22]),
        pushed(decoder.start(seed=4, **(conditioning | {"prompt": None})), codes, [22]),
        pushed(decoder.start(seed=4, **conditioning), codes_of(2), [22]),
    ):
        assert (other - samples).abs().max() > 1e-3


SCRIPT = """
import torch
from test_cosyvoice2_decoder import codes_of, made, pushed, voice
torch.rand(3)
print(pushed(made().start(seed=4, **voice()), codes_of(), [22]).double().sum().item().hex())
"""


def test_the_same_seed_in_a_new_process(decoder, tmp_path):
    samples = pushed(decoder.start(seed=4, **voice()), codes_of(), [22])
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True, text=True, timeout=300, check=True,
        env=_environment(),
    )  # fmt: skip
    assert float.fromhex(process.stdout.strip()) == samples.double().sum().item()


def _environment():
    import os
    from pathlib import Path

    return os.environ | {"PYTHONPATH": str(Path(__file__).parent)}


def test_upstream_s_noise_makes_the_flow_deaf_to_the_seed():
    decoder, codes = made(parity="upstream"), codes_of()
    mels = []
    for seed in (1, 2):
        stream = decoder.start(seed=seed, **voice())
        mels.append(torch.cat([stream._flow.push(codes[:, 0]), stream._flow.finish()]))
    assert torch.equal(*mels)
    flow = made().start(seed=1, **voice())._flow
    assert not torch.equal(mels[0], torch.cat([flow.push(codes[:, 0]), flow.finish()]))


def test_not_streaming_waits_and_sees_everything(decoder):
    patient, codes = made(streaming=False), codes_of()
    stream = patient.start(seed=4, **voice())
    assert stream.wants() == 0 and patient.lookahead > 1000
    assert not len(stream.push(codes))
    samples = stream.finish()
    assert samples.shape == (SPOKEN * 960,)
    streamed = pushed(decoder.start(seed=4, **voice()), codes, [22])
    assert (samples - streamed).abs().max() > 1e-3


def test_half_the_precision_takes_half_the_memory_and_is_close(decoder):
    narrow, codes = made(precision="bfloat16"), codes_of()
    mels, numbers = [], []
    for variant in (decoder, narrow):
        stream = variant.start(seed=4, **voice())._flow
        mels.append(torch.cat([stream.push(codes[:, 0]), stream.finish()]))
        numbers.append(stream.past)
    kinds = [next(iter(past.steps[0]._rows.values()))._buffer.dtype for past in numbers]
    assert kinds == [torch.float32, torch.bfloat16]
    assert mels[1].dtype == torch.float32
    off = (mels[1] - mels[0]).square().mean().sqrt() / mels[0].square().mean().sqrt()
    assert 1e-4 < off < 0.03
    sizes = [[22], [1] * 22]
    one, two = (pushed(narrow.start(seed=4, **voice()), codes, size) for size in sizes)
    assert (one - two).abs().max() < 1e-4


def solved(decoder, monkeypatch):
    """Frames the estimator works on, call by call."""
    calls, estimate = [], decoder.flow.estimator.forward

    def counted(x, *others, **options):
        calls.append(x.shape[1])
        return estimate(x, *others, **options)

    monkeypatch.setattr(decoder.flow.estimator, "forward", counted)
    return calls


def test_a_voice_s_prompt_is_solved_once(monkeypatch):
    decoder, codes = made(), codes_of()
    calls = solved(decoder, monkeypatch)
    first = pushed(decoder.start(seed=4, **voice()), codes, [22])
    total = sum(calls)
    again = pushed(decoder.start(seed=4, **voice()), codes, [22])
    assert torch.equal(first, again)
    # one of the prompt's chunks is complete without what is spoken
    assert total == 2 * 31 * SMALL.steps and sum(calls) == 2 * total - 2 * 4 * SMALL.steps
    before = sum(calls)
    pushed(decoder.start(seed=4, **voice(5)), codes, [22])
    assert sum(calls) == before + total and len(decoder._pasts) == 1
    forgetful = made(prompts=0)
    assert torch.equal(pushed(forgetful.start(seed=4, **voice()), codes, [22]), first)
    assert not forgetful._pasts


def test_other_weights_hear_the_prompt_anew(decoder):
    changed, codes = made(), codes_of()
    pushed(changed.start(seed=4, **voice()), codes, [22])
    untouched = made()
    trained_looking_(untouched.flow, 8)
    changed.load_state_dict(untouched.state_dict())
    expected = pushed(untouched.start(seed=4, **voice()), codes, [22])
    assert torch.equal(pushed(changed.start(seed=4, **voice()), codes, [22]), expected)


def test_everything_is_made_on_the_device_of_the_weights():
    """The meta device stands in for a GPU: it, too, refuses to mix with the CPU."""
    for streaming in (True, False):
        decoder, codes = made(streaming=streaming, prompts=0).to("meta"), codes_of()
        stream = decoder.start(seed=1, **voice())
        parts = [stream.push(codes[:9].to("meta")), stream.push(codes[9:]), stream.finish()]
        assert all(part.device.type == "meta" for part in parts)
        assert sum(len(part) for part in parts) == 22 * 960


def test_as_many_prompts_are_kept_as_asked_for():
    decoder = made(prompts=2)
    for seed in (1, 2, 1, 3):
        decoder.start(seed=4, **voice(seed))
    keys = list(decoder._pasts)
    assert len(keys) == 2
    decoder.start(seed=4, **voice(1))
    assert list(decoder._pasts) == [keys[1], keys[0]]


def test_hearing_cuts_to_what_mel_and_codes_cover(decoder):
    audio = torch.sin(torch.arange(10_000) * 0.05)
    recording = decoder.hear(audio, codes_of(count=12))
    assert recording["codes"].shape == (10, 1) and recording["mel"].shape == (20, 80)
    assert recording["mel"].std() > 0.1
    recording = decoder.hear(audio, codes_of(count=4))
    assert recording["codes"].shape == (4, 1) and recording["mel"].shape == (8, 80)
    pushed(decoder.start(prompt=recording), codes_of(), [22])


def test_a_finished_stream_refuses_more(decoder):
    stream = decoder.start()
    assert stream.finish().shape == (0,)
    with pytest.raises(RuntimeError, match="finished"):
        stream.push(codes_of())
    with pytest.raises(RuntimeError, match="finished"):
        stream.finish()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("parity", "left"),
        ("precision", "int3"),
        ("steps", 0),
        ("chunk", 0),
        ("left_chunks", -2),
        ("first_chunks", [0]),
    ],
)
def test_numbers_that_mean_nothing_are_refused(field, value):
    with pytest.raises(ConfigError, match=field):
        structured(type(SMALL), {field: value}, "decoder", Config({}))
