"""Vocoder and ears against the public sources themselves, where the user has them."""

import sys

import cosyvoice2_reference as reference
import pytest
import torch
from cosyvoice2_reference import counted_noise, melody, recording
from safetensors.torch import load_file

from wishbone.plugins.cosyvoice2 import mel as spectra
from wishbone.plugins.cosyvoice2.speech_tokenizer import CosyVoice2SpeechTokenizer
from wishbone.plugins.cosyvoice2.vocoder import names
from wishbone.plugins.cosyvoice2.vocoder.config import HiFTConfig
from wishbone.plugins.cosyvoice2.vocoder.layers import Memory
from wishbone.plugins.cosyvoice2.vocoder.model import HiFT

cosyvoice = pytest.mark.skipif(
    reference.folder("WISHBONE_COSYVOICE") is None,
    reason="WISHBONE_COSYVOICE names no checkout of FunAudioLLM/CosyVoice",
)
s3tokenizer = pytest.mark.skipif(
    reference.folder("WISHBONE_S3TOKENIZER") is None,
    reason="WISHBONE_S3TOKENIZER names no checkout of xingchensong/S3Tokenizer",
)


def largest(a, b):
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def ours(upstream, **config):
    vocoder = HiFT(HiFTConfig(**config)).eval().requires_grad_(False)
    names.load(vocoder, upstream.state_dict(), "the reference")
    return vocoder


def ended():
    memory = Memory()
    memory.last = True
    return memory


@cosyvoice
@pytest.mark.parametrize(
    ("config", "frames"), [({}, 24), (reference.TINY, 1), (reference.TINY, 90)]
)
def test_vocoder(config, frames):
    upstream, mel = reference.hift(**config), melody(frames)
    result, vocoder = reference.hift_run(upstream, mel), ours(upstream, **config)
    assert largest(vocoder.pitch(mel, ended()), result["pitch"].double()) < 1e-3
    source = vocoder.source(result["pitch"].double(), ended(), counted_noise())
    # the reference adds the phase up in float32, so it drifts with length
    assert largest(source, result["source"]) < 2e-5 * max(10, frames)
    assert largest(vocoder.filter(mel, result["source"], ended()), result["audio"]) < 2e-6
    audio = vocoder.advance(mel, ended(), counted_noise())
    assert largest(audio, result["audio"]) < 1e-3 < result["audio"].abs().max()


@cosyvoice
def test_upstreams_stream_differs_from_its_whole():
    """It carries 8 frames and their source over, draws new noise and phase, and cross-fades."""
    upstream, mel, step = reference.hift(**reference.TINY), melody(60), 20
    at_once = reference.hift_run(upstream, mel)["audio"]
    window, cache, parts = torch.hamming_window(2 * 3840, periodic=False), None, []
    for start in range(0, 60, step):
        chunk, last = mel[:, :, start : start + step], start + step == 60
        if cache is not None:
            chunk = torch.cat([cache["mel"], chunk], dim=2)
        result = reference.hift_run(upstream, chunk, cache and cache["source"])
        audio = result["audio"].clone()
        if cache is not None:
            audio[:, :3840] = audio[:, :3840] * window[:3840] + cache["audio"] * window[3840:]
        cache = {"mel": chunk[:, :, -8:], "source": result["source"][:, :, -3840:]}
        cache["audio"] = audio[:, -3840:]
        parts.append(audio if last else audio[:, :-3840])
    upstream_error = largest(torch.cat(parts, dim=1), at_once)
    vocoder = ours(upstream, **reference.TINY)
    stream = vocoder.start(torch.Generator().manual_seed(0))
    samples = torch.cat([*(stream.push(x) for x in mel[0].split(step, dim=1)), stream.finish()])
    audio = vocoder(mel, generator=torch.Generator().manual_seed(0))[0]
    assert largest(samples, audio) < 1e-6
    assert upstream_error > 0.05 * at_once.abs().max()


@cosyvoice
@s3tokenizer
def test_spectrograms():
    assert largest(spectra.whisper_mel(recording(16_000, 16_000)), reference.whisper()[0]) < 1e-6
    if not (reference.folder("WISHBONE_COSYVOICE") / "third_party/Matcha-TTS/matcha").is_dir():
        pytest.skip("WISHBONE_COSYVOICE has no third_party/Matcha-TTS")
    assert largest(spectra.vocoder_mel(recording(12_000, 24_000)), reference.matcha()[0]) < 2e-6


@cosyvoice
@s3tokenizer
def test_the_golden_files_are_what_the_reference_makes(tmp_path, monkeypatch):
    golden = reference.GOLDEN
    monkeypatch.setattr(reference, "GOLDEN", tmp_path)
    reference.write()
    for path in tmp_path.iterdir():
        again, before = load_file(path), load_file(golden / path.name)
        assert again.keys() == before.keys()
        for name, tensor in again.items():
            assert torch.allclose(tensor, before[name], atol=1e-5), name


@s3tokenizer
def test_speech_tokenizer(tmp_path):
    pytest.importorskip("onnx", reason="reads .onnx files: pip install 'wishbone-tts[cosyvoice2]'")
    from cosyvoice2_onnx import speech_tokenizer

    upstream = reference.ears(width=128, layers=3)
    state = {name: tensor.detach().numpy() for name, tensor in upstream.state_dict().items()}
    path = speech_tokenizer(tmp_path / "ears.onnx", state, 3)
    # our small file is one that the reference reads, too: names and orders are the release's
    read = sys.modules["s3tokenizer.utils"].onnx2torch(str(path))
    assert read.keys() == upstream.state_dict().keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in upstream.state_dict().items())
    cls = CosyVoice2SpeechTokenizer
    tokenizer = cls(cls.Config(engine="torch", width=128, layers=3)).eval()
    tokenizer.load_file(path)
    audios = [recording(20_000, 16_000), recording(7_777, 12_000)]
    mels = [spectra.whisper_mel(audio) for audio in audios]
    lengths = torch.tensor([mel.shape[1] for mel in mels])
    batch = torch.nn.utils.rnn.pad_sequence([mel.T for mel in mels], batch_first=True)
    codes, counts = upstream.quantize(batch.transpose(1, 2), lengths)
    for i, actual in enumerate(tokenizer.encode_batch(audios)):
        assert torch.equal(actual[:, 0], codes[i, : counts[i]].long())
