"""Bytes of the formats: headers to the last field, rates, what is final when, and refusals."""

import io
import struct

import numpy as np
import pytest
import soundfile
import torch

from wishbone.core.contract.errors import UsageError
from wishbone.core.serve import encoding
from wishbone.core.serve.encoding import as_pcm, encoder_for
from wishbone.core.serve.refusal import Refusal, busy, draining, of_error

RATE = 24_000


def tone(samples=4000, rate=RATE):
    return (9000 * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)).astype("<i2")


def encoded(name, samples, rate=RATE, streaming=False):
    encoder = encoder_for(name, rate, streaming)
    return encoder.add(samples) + encoder.finish()


def test_samples_are_rounded_to_16_bits_and_cut_at_full_scale():
    pcm = as_pcm(torch.tensor([-2.0, -1.0, -0.25, 0.0, 0.4 / 32767, 0.6 / 32767, 0.5, 1.0, 2.0]))
    assert pcm.tolist() == [-32767, -32767, -8192, 0, 0, 1, 16384, 32767, 32767]
    assert pcm.dtype == np.dtype("<i2")


def test_pcm_is_nothing_but_samples():
    encoder = encoder_for("pcm", RATE)
    assert encoder.add(tone()) == tone().tobytes() and encoder.finish() == b""


@pytest.mark.parametrize("rate", [8_000, 24_000, 48_000])
def test_a_wav_says_all_of_its_samples_but_how_many(rate):
    encoder = encoder_for("wav", rate)
    first, second = encoder.add(tone()), encoder.add(tone())
    assert second == tone().tobytes() and encoder.finish() == b""
    head, samples = first[:44], first[44:]
    assert samples == tone().tobytes()
    riff, length, wave, size, kind, channels, told, speed, block, bits, data, rest = struct.unpack(
        "<4sI8sIHHIIHH4sI", head
    )
    assert (riff, wave, data) == (b"RIFF", b"WAVEfmt ", b"data")
    assert (size, kind, channels, told) == (16, 1, 1, rate)
    assert (speed, block, bits) == (2 * rate, 2, 16)
    # players read to the end of a file whose length is the largest number there is
    assert length == rest == 2**32 - 1


def test_a_flac_comes_at_its_end():
    encoder = encoder_for("flac", RATE)
    assert encoder.add(tone()) == encoder.add(tone(100)) == b""
    file = soundfile.SoundFile(io.BytesIO(encoder.finish()))
    assert (file.frames, file.samplerate, file.channels) == (4100, RATE, 1)
    assert file.subtype == "PCM_16"


def test_a_streamed_flac_is_another_and_all_other_formats_are_streamed_already():
    assert encoder_for("flac", RATE, streaming=True).add(tone(40_000)) != b""
    for name in ("pcm", "wav", "opus", "mp3"):
        assert type(encoder_for(name, RATE, True)) is type(encoder_for(name, RATE))


@pytest.mark.parametrize("rate", [8_000, 12_000, 16_000, 24_000, 48_000])
def test_opus_is_written_at_each_rate_that_it_has(rate):
    samples, told = soundfile.read(io.BytesIO(encoded("opus", tone(2 * rate, rate), rate)))
    assert told == rate and abs(len(samples) - 2 * rate) < rate / 10


@pytest.mark.parametrize("rate", [11_025, 22_050, 32_000, 44_100])
def test_opus_at_another_rate_is_refused_and_the_others_are_not(rate):
    with pytest.raises(Refusal, match=f"no sample rate of {rate}") as caught:
        encoder_for("opus", rate)
    assert (caught.value.status, caught.value.param) == (400, "response_format")
    for name in ("wav", "flac", "mp3", "pcm"):
        assert encoder_for(name, rate)


@pytest.mark.parametrize("name", ["opus", "mp3"])
def test_pages_are_sent_while_there_is_more_to_come(name):
    encoder = encoder_for(name, RATE)
    early = encoder.add(tone(3 * RATE))
    assert len(early) > 4000
    late = encoder.add(tone(3 * RATE)) + encoder.finish()
    samples, _ = soundfile.read(io.BytesIO(early + late))
    assert abs(len(samples) - 6 * RATE) <= 3 * 1152


def test_an_mp3_has_one_bit_rate_and_one_channel():
    data = encoded("mp3", tone(5 * RATE))
    rates, at = set(), data.index(b"\xff")
    kilobits = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    while at + 4 <= len(data):
        head = data[at : at + 4]
        assert head[0] == 0xFF and head[1] & 0xE0 == 0xE0
        rate = kilobits[head[2] >> 4]
        rates.add(rate)
        assert head[3] >> 6 == 3  # one channel
        # version 2 has 576 samples in a frame
        at += 72 * rate * 1000 // RATE + (head[2] >> 1 & 1)
    assert len(rates) == 1
    # what speech needs: neither the least nor the most that there is
    assert 32 <= rates.pop() <= 96


def test_a_format_that_nobody_writes_is_refused_with_those_that_are():
    with pytest.raises(Refusal, match="Use one of wav, pcm, flac, opus, mp3") as caught:
        encoder_for("aac", RATE)
    assert (caught.value.status, caught.value.param) == (400, "response_format")


def test_a_format_that_this_machine_cannot_write_is_refused(monkeypatch):
    def refuse(*arguments, **options):
        raise soundfile.LibsndfileError(1)

    monkeypatch.setattr(encoding.soundfile, "SoundFile", refuse)
    with pytest.raises(Refusal, match="cannot write 'mp3' on this machine") as caught:
        encoder_for("mp3", RATE)
    assert (caught.value.status, caught.value.param) == (400, "response_format")


def test_what_was_sent_of_a_file_cannot_change_and_the_rest_can():
    file = encoding._Growing()
    assert file.write(b"abcdef") == 6 and file.tell() == 6
    assert file.seek(4) == 4 and file.write(b"EF") == 2
    assert file.take() == b"abcdEF" and file.take() == b""
    assert file.seek(2) == 2 and file.write(b"xy") == 2 and file.tell() == 4  # too late
    assert file.take() == b""
    assert file.seek(2, 1) == 6 and file.write(b"ghi") == 3
    assert file.seek(-1, 2) == 8 and file.write(b"I") == 1
    assert file.seek(-3, 1) == 6 and file.write(b"G") == 1
    assert file.seek(0, 2) == 9
    assert file.take() == b"GhI" and file.tell() == 9


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"), (404, "invalid_request_error"),
        (428, "invalid_request_error"), (429, "rate_limit_error"), (430, "invalid_request_error"),
        (499, "invalid_request_error"), (500, "server_error"), (503, "server_error"),
    ],
)  # fmt: skip
def test_the_kind_of_an_error_follows_from_its_status(status, kind):
    refusal = Refusal(status, "It is so.", "field", "word")
    error = {"message": "It is so.", "type": kind, "param": "field", "code": "word"}
    assert refusal.body == {"error": error} and refusal.headers == {}


def test_who_is_refused_for_now_is_told_when_to_come_again():
    assert busy(7).status == 429 and busy(7).headers == {"Retry-After": "7"}
    assert "in 7 s" in busy(7).message
    assert draining().status == 503 and int(draining().headers["Retry-After"]) > 0


def test_what_a_part_refuses_is_told_without_its_place():
    refusal = of_error(UsageError("It has no words.", "/secret/place", "Give one."), "input")
    assert (refusal.status, refusal.param) == (400, "input")
    assert refusal.message == "It has no words. Give one."
    assert of_error(UsageError("It has no words.", "here", "")).message == "It has no words."
