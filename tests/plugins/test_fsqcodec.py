"""The codec: streamed audio is whole audio, codes are digits, the synthesiser does what it says."""

import copy
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from wishbone.core.contract.errors import UsageError
from wishbone.plugins.fsqcodec import corpus, export, source
from wishbone.plugins.fsqcodec.decoder import (
    HOP,
    SAMPLE_RATE,
    WINDOW,
    WINDOW_SUM,
    FSQCodecDecoder,
    digits,
)
from wishbone.plugins.fsqcodec.tokenizer import SAMPLES, FSQCodecTokenizer


@pytest.fixture(scope="module")
def decoder() -> FSQCodecDecoder:
    """Random weights large enough that every part is heard."""
    torch.manual_seed(0)
    decoder = FSQCodecDecoder(FSQCodecDecoder.Config(width=32, fine_width=24, envelope_points=40))
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.7 * parameter.shape[-1] ** -0.5)
    return decoder.eval()


def pushed(decoder: FSQCodecDecoder, codes: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    stream, parts = decoder.start(seed=3), []
    for piece in codes.split(sizes):
        parts.append(stream.push(piece))
    return torch.cat([*parts, stream.finish()])


@pytest.mark.parametrize("sizes", [[1] * 23, [2, 20, 1], [5, 1, 1, 16], [22, 1]])
def test_pieces_sound_like_the_whole(decoder, sizes):
    codes = torch.randint(0, 6561, (23, 1), generator=torch.Generator().manual_seed(1))
    whole = decoder.decode(codes, seed=3)
    pieces = pushed(decoder, codes, sizes)
    assert whole.shape == pieces.shape == (23 * SAMPLES,)
    assert (whole - pieces).abs().max() < 1e-3 * whole.abs().max()


def test_streaming_matches_the_form_used_in_training(decoder):
    codes = torch.randint(0, 6561, (12, 1), generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(3)
    noise = torch.cat([torch.randn(HOP, generator=generator) for _ in range(48)])[None]
    with torch.no_grad():
        features = decoder.trunk(digits(codes[:, 0]).T[None])
        pitch = (decoder.pitch_of(features) * 32).round() / 32
        whole = decoder.synthesise(features, pitch, decoder.pulse_share(features), noise)[0]
    streamed = decoder.decode(codes, seed=3)
    assert (whole - streamed).abs().max() < 1e-3 * whole.abs().max()


def test_lookahead_is_what_it_claims(decoder):
    """Samples of a frame do not change with codes more than ``lookahead`` frames later."""
    codes = torch.randint(0, 6561, (20, 1), generator=torch.Generator().manual_seed(4))
    other = codes.clone()
    other[12:] = (other[12:] + 1234) % 6561
    first, second = decoder.decode(codes), decoder.decode(other)
    same = (12 - decoder.lookahead) * SAMPLES
    assert torch.equal(first[:same], second[:same])
    changed = (12 + decoder.lookahead) * SAMPLES
    assert not torch.allclose(first[:changed], second[:changed])


def test_streams_do_not_disturb_each_other(decoder):
    codes = torch.randint(0, 6561, (10, 1), generator=torch.Generator().manual_seed(5))
    alone = pushed(decoder, codes, [5, 5])
    first, second = decoder.start(seed=3), decoder.start(seed=9)
    parts = []
    for piece in codes.split(5):
        parts.append(first.push(piece))
        second.push(piece.flip(0))
    assert torch.equal(alone, torch.cat([*parts, first.finish()]))


def test_a_finished_stream_refuses_more(decoder):
    stream = decoder.start()
    stream.finish()
    with pytest.raises(RuntimeError, match="finished"):
        stream.push(torch.zeros(1, 1, dtype=torch.long))


def test_digits_are_least_significant_first():
    code = 2 * 1 + 0 * 3 + 1 * 9 + 2 * 3**7
    assert digits(torch.tensor(code)).tolist() == [1, -1, 0, -1, -1, -1, -1, 1]


def test_codes_come_back_from_their_digits():
    codes = torch.arange(6561)
    powers = 3 ** torch.arange(8)
    assert torch.equal(((digits(codes).long() + 1) * powers).sum(-1), codes)


def test_tokenizer_gives_one_code_per_forty_milliseconds():
    tokenizer = FSQCodecTokenizer(FSQCodecTokenizer.Config(width=32)).eval()
    audio = torch.randn(SAMPLES * 7 + 1) * 0.1
    codes = tokenizer.encode(audio)
    assert codes.shape == (8, 1)
    assert codes.dtype == torch.int64
    assert 0 <= int(codes.min()) and int(codes.max()) < 6561
    assert torch.equal(tokenizer.encode_batch([audio, audio[:3000]])[0], codes)


def test_no_audio_is_no_codes():
    tokenizer = FSQCodecTokenizer(FSQCodecTokenizer.Config(width=16, fine_blocks=1, blocks=1))
    codes = tokenizer.encode(torch.zeros(0))
    assert codes.shape == (0, 1) and codes.dtype == torch.int64


def test_everything_is_made_on_the_device_of_the_weights(decoder):
    """The meta device stands in for a GPU: it, too, refuses to mix with the CPU."""
    tokenizer = FSQCodecTokenizer(FSQCodecTokenizer.Config(width=16, fine_blocks=1, blocks=1))
    audio = torch.zeros(3 * SAMPLES, device="meta")
    codes = tokenizer.to("meta").encode(audio)
    assert codes.device.type == "meta" and codes.shape == (3, 1)
    stream = copy.deepcopy(decoder).to("meta").start(seed=1)
    parts = [stream.push(codes), stream.push(codes[:0]), stream.finish()]
    assert all(part.device.type == "meta" for part in parts)
    assert sum(len(part) for part in parts) == 3 * SAMPLES


@pytest.fixture(scope="module")
def choir() -> FSQCodecDecoder:
    """A decoder of many voices, its modulation as if trained."""
    torch.manual_seed(0)
    config = FSQCodecDecoder.Config(width=32, fine_width=24, envelope_points=40, speaker_width=8)
    decoder = FSQCodecDecoder(config)
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.7 * parameter.shape[-1] ** -0.5)
    return decoder.eval()


def test_a_recording_decides_whose_voice_it_is(choir):
    draw = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 6561, (9, 1), generator=draw)
    low, high = (torch.randn(SAMPLE_RATE, generator=draw) * scale for scale in (0.02, 0.4))
    mine, other = choir.hear(low, codes), choir.hear(high, codes)
    assert mine["speaker"].shape == (8,) and not torch.allclose(mine["speaker"], other["speaker"])
    made = [choir.decode(codes, prompt=prompt) for prompt in (mine, other, None)]
    assert not torch.allclose(made[0], made[1]) and not torch.allclose(made[0], made[2])
    stream = choir.start(prompt=mine)
    pieces = [stream.push(piece) for piece in codes.split([1, 5, 3])]
    whole = torch.cat([*pieces, stream.finish()])
    assert (whole - made[0]).abs().max() < 1e-3 * made[0].abs().max()


def test_a_modulation_begins_as_no_change():
    torch.manual_seed(0)
    config = FSQCodecDecoder.Config(width=16, fine_width=8, envelope_points=20, speaker_width=4)
    decoder = FSQCodecDecoder(config).eval()
    codes = torch.randint(0, 6561, (5, 1))
    heard = decoder.hear(torch.randn(SAMPLE_RATE), codes)
    assert torch.equal(decoder.decode(codes, prompt=heard), decoder.decode(codes))


def test_a_voice_cannot_be_known_from_nothing(choir, decoder):
    with pytest.raises(UsageError, match="seconds long"):
        choir.hear(torch.zeros(1000), torch.zeros(1, 1))
    assert decoder.hear(torch.zeros(1000), torch.zeros(1, 1)) == {}


def test_an_exported_codec_speaks_in_the_voice_it_was_given(choir, decoder, monkeypatch, tmp_path):
    draw = np.random.default_rng(0)
    sounds = [(draw.normal(0, 3000, SAMPLES * n)).astype(np.int16) for n in (30, 40)]
    made = [corpus.Recording(sound, *[np.zeros(0)] * 3) for sound in sounds]
    monkeypatch.setattr(corpus, "load", lambda folders, hours: ([made], folders))
    tensors = {f"decoder.{name}": value for name, value in choir.state_dict().items()}
    voice = export.mean_voice(asdict(choir.config), tensors, tmp_path)
    heard = [choir.hear(torch.from_numpy(sound) / 32767, torch.zeros(0)) for sound in sounds]
    assert torch.allclose(voice, (heard[0]["speaker"] + heard[1]["speaker"]) / 2, atol=1e-5)
    with pytest.raises(UsageError, match="single voice"):
        export.mean_voice(asdict(decoder.config), {}, tmp_path)


def test_pulses_have_the_pitch_asked_for():
    pitch = torch.full((1, 101), 150.0)
    samples, phase = source.pulses(pitch, torch.zeros(1).double(), HOP, SAMPLE_RATE)
    spectrum = torch.fft.rfft(samples[0] * torch.hann_window(samples.shape[1])).abs()
    peaks = spectrum.reshape(-1)[: int(1000 / SAMPLE_RATE * samples.shape[1])]
    strongest = peaks.topk(6).indices * SAMPLE_RATE / samples.shape[1]
    assert all(min(abs(f % 150), 150 - f % 150) < 2.0 for f in strongest.tolist())
    assert abs(samples.pow(2).mean() - 1.0) < 0.05
    assert min(float(phase), 1.0 - float(phase)) < 1e-9  # 150 whole turns in a second


def test_pulses_continue_across_calls():
    pitch = 100 + 50 * torch.rand(1, 41, generator=torch.Generator().manual_seed(0))
    whole, _ = source.pulses(pitch, torch.zeros(1).double(), HOP, SAMPLE_RATE)
    first, phase = source.pulses(pitch[:, :18], torch.zeros(1).double(), HOP, SAMPLE_RATE)
    second, _ = source.pulses(pitch[:, 17:], phase, HOP, SAMPLE_RATE)
    assert torch.allclose(whole, torch.cat([first, second], dim=1), atol=1e-4)


@pytest.mark.parametrize(("name", "length"), [("window", 959), ("noise_window", 479)])
def test_frames_that_nothing_filters_add_up_to_what_they_were_cut_from(decoder, name, length):
    assert int((getattr(decoder, name) > 0).sum()) == length
    signal = torch.randn(1, 20 * HOP, generator=torch.Generator().manual_seed(7))
    frames = source.frames_of(signal, getattr(decoder, name), HOP)
    whole = source.overlap_add(frames, decoder.window, HOP) / WINDOW_SUM
    inside = slice(WINDOW, -WINDOW)
    assert torch.allclose(whole[:, inside], signal[:, inside], atol=1e-4)


def test_pulses_and_noise_change_places_at_equal_power(decoder):
    features = torch.randn(1, 4, decoder.config.fine_width)
    one, none = torch.ones(1, 4, 481, dtype=torch.cfloat), torch.zeros(1, 4, 481)

    def power(share, pulse, noise):
        voicing = torch.full((1, 4), share)
        return decoder.spectra(features, voicing, pulse, noise).abs().square()

    whole = power(1.0, one, none)
    assert torch.allclose(power(0.3, one, none), 0.3 * whole, rtol=1e-3)
    assert torch.allclose(power(0.3, none, one), 0.7 * whole, rtol=1e-3)


def test_minimum_phase_of_a_one_pole_filter():
    """1 / (1 - 0.8 z^-1) has minimum phase, so its magnitude alone must give its phase."""
    z = torch.exp(-1j * math.pi * torch.arange(481) / 480)
    response = 1 / (1 - 0.8 * z)
    phase = source.minimum_phase(response.abs().log())
    assert torch.allclose(phase, response.angle(), atol=1e-4)


def test_nothing_sounds_above_what_the_loss_hears(decoder):
    codes = torch.randint(0, 6561, (25, 1), generator=torch.Generator().manual_seed(6))
    power = torch.fft.rfft(decoder.decode(codes)).abs().square()
    edge = int(11_200 / (SAMPLE_RATE / 2) * len(power))
    assert power[edge:].sum() < 1e-4 * power.sum()
