"""Files, sample rates and spectrograms."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from wishbone.core.audio import files
from wishbone.core.audio.files import Audio, Writer
from wishbone.core.contract.errors import DataError, UsageError

RATE = 24_000


def tone(hertz=440.0, seconds=0.5, rate=RATE):
    return Audio(
        0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(int(seconds * rate)) / rate), rate
    )


@pytest.mark.parametrize("ending, tolerance", [(".wav", 1e-4), (".FLAC", 1e-4), (".ogg", 0.1)])
def test_round_trip(tmp_path, ending, tolerance):
    path = tone().save(tmp_path / f"a{ending}")
    back = files.read(path)
    assert back.sample_rate == RATE and back.samples.dtype == torch.float32
    assert back.seconds == pytest.approx(0.5, abs=0.05)
    assert (back.samples[:8000] - tone().samples[:8000]).abs().max() < tolerance
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_chunks_make_the_same_file_as_the_whole(tmp_path):
    samples = tone(seconds=1.0).samples
    with files.Writer(tmp_path / "chunks.wav", RATE) as writer:
        for part in samples.split(777):
            writer.write(part)
    Audio(samples, RATE).save(tmp_path / "whole.wav")
    assert (tmp_path / "chunks.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()


def test_long_vorbis_does_not_crash(tmp_path):
    path = Audio(torch.randn(RATE * 60) * 0.1, RATE).save(tmp_path / "long.ogg")
    assert files.read(path).seconds == pytest.approx(60, abs=0.1)


def test_loud_samples_are_clipped_not_wrapped(tmp_path):
    path = Audio(torch.tensor([2.0, -2.0]), RATE).save(tmp_path / "a.wav")
    assert files.read(path).samples.tolist() == pytest.approx([1.0, -1.0], abs=1e-3)


def test_nothing_is_left_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), files.Writer(tmp_path / "a.wav", RATE) as writer:
        writer.write(tone().samples)
        raise RuntimeError("the model broke")
    assert list(tmp_path.iterdir()) == []


def test_targets_that_cannot_be_written(tmp_path):
    tone().save(tmp_path / "a.wav")
    with pytest.raises(UsageError, match="exists already"):
        tone().save(tmp_path / "a.wav")
    tone(880).save(tmp_path / "a.wav", overwrite=True)
    with pytest.raises(UsageError, match="'.mp4' is not an ending"):
        tone().save(tmp_path / "a.mp4")
    with pytest.raises(UsageError, match="folder does not exist"):
        tone().save(tmp_path / "no" / "a.wav")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="no such audio file"):
        files.read(tmp_path / "a.wav")
    (tmp_path / "a.wav").write_text("hello")
    with pytest.raises(DataError, match="cannot be read as audio"):
        files.read(tmp_path / "a.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(DataError, match="no sound"):
        files.read(tmp_path / "empty.wav")
    for odd in (np.nan, np.inf):
        soundfile.write(tmp_path / "odd.wav", np.array([0.1, odd, 0.2]), RATE, subtype="FLOAT")
        with pytest.raises(DataError, match="not numbers"):
            files.read(tmp_path / "odd.wav")


def test_channels_are_averaged(tmp_path):
    left, right = np.full(100, 0.5), np.full(100, 0.1)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), RATE)
    assert files.read(tmp_path / "a.wav").samples.mean() == pytest.approx(0.3, abs=1e-3)


def test_resample_keeps_the_sound():
    low = files.resample(tone(), 16_000)
    assert low.sample_rate == 16_000 and len(low.samples) == 8000
    expected = tone(rate=16_000).samples
    assert (low.samples - expected)[100:-100].abs().max() < 0.01
    assert files.resample(low, 16_000) is low


def test_log_mel_finds_the_tone():
    low, high = (files.log_mel(tone(hertz)) for hertz in (300.0, 3000.0))
    assert low.shape[0] == 80 and low.shape == high.shape
    peaks = [mel.mean(1).argmax().item() for mel in (low, high)]
    assert peaks[0] < peaks[1] - 20
    assert files.log_mel(Audio(torch.zeros(4000), RATE)).max() == pytest.approx(np.log(1e-5))


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_a_live_file_can_be_read_while_it_grows(tmp_path, ending):
    target, lengths = tmp_path / f"a.{ending}", []
    chunk = torch.sin(torch.arange(24_000) * 0.05) * 0.3
    with Writer(target, 24_000, live=True) as writer:
        assert not target.exists()
        for _ in range(3):
            writer.write(chunk)
            lengths.append(target.stat().st_size)
    # Ogg writes pages of about a second
    assert 0 < lengths[0] <= lengths[1] <= lengths[2] and lengths[0] < target.stat().st_size
    assert files.read(target).samples.shape == (72_000,)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_live_file_keeps_what_was_written_before_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), Writer(tmp_path / "a.wav", 24_000, live=True) as writer:
        writer.write(torch.zeros(1000))
        assert len(files.read(tmp_path / "a.wav").samples) == 1000
        raise KeyboardInterrupt
    assert len(files.read(tmp_path / "a.wav").samples) == 1000


def test_a_header_that_lies_is_refused(tmp_path):
    path = tone().save(tmp_path / "a.wav")
    data = bytearray(path.read_bytes())
    data[24:28] = (2**31).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DataError, match="samples a second|cannot be read"):
        files.read(path)


def test_a_folder_is_no_target(tmp_path):
    (tmp_path / "a.wav").mkdir()
    with pytest.raises(UsageError, match="This is a folder"):
        tone().save(tmp_path / "a.wav", overwrite=True)


@pytest.mark.parametrize("ending", [".wav", ".flac"])
def test_a_disk_that_takes_no_more_is_an_error_of_the_system(tmp_path, ending):
    code = (
        "import resource, sys, torch; from wishbone.core.audio.files import Audio\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "try: Audio(torch.rand(10**6) - 0.5, 24_000).save(sys.argv[1])\n"
        "except OSError as error: print('no room', error.errno)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / f"a{ending}")]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.stdout.startswith("no room"), process.stderr
    assert list(tmp_path.iterdir()) == []
