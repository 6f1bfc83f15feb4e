"""Speech tokenizer and speaker encoder: golden data of the reference, small files, bad files."""

import importlib

import pytest
import torch
from cosyvoice2_reference import EARS, GOLDEN, recording
from safetensors.torch import load_file

from wishbone.core.audio import files as sound
from wishbone.core.audio.files import Audio
from wishbone.core.contract.errors import CheckpointError, DataError, MissingExtra
from wishbone.plugins.cosyvoice2 import mel as spectra
from wishbone.plugins.cosyvoice2.release.files import EARS as EARS_FILE
from wishbone.plugins.cosyvoice2.speaker import SpeakerEncoder
from wishbone.plugins.cosyvoice2.speech_network import SpeechNetwork
from wishbone.plugins.cosyvoice2.speech_tokenizer import (
    CosyVoice2SpeechTokenizer,
    halves,
    windows,
)

pytest.importorskip("onnx", reason="reads .onnx files: pip install 'wishbone-tts[cosyvoice2]'")
pytest.importorskip("onnxruntime", reason="runs them: pip install 'wishbone-tts[cosyvoice2]'")
import cosyvoice2_onnx as small  # noqa: E402

RATE = 16_000
SECOND = recording(RATE, RATE)


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "cosyvoice2_ears.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a release holds of it, with two blocks."""
    folder = tmp_path_factory.mktemp("release")
    small.speech_tokenizer(folder / EARS_FILE, small.random_state(), 2)
    small.speaker_encoder(folder / "campplus.onnx")
    return folder


def build(engine, path=None, layers=2):
    cls = CosyVoice2SpeechTokenizer
    tokenizer = cls(cls.Config(engine=engine, width=EARS["width"], layers=layers)).eval()
    if path is not None:
        tokenizer.load_file(path)
    return tokenizer


def largest(a, b):
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def test_spectrograms_are_the_reference(golden):
    assert (
        largest(spectra.whisper_mel(SECOND)[:, :20], golden["whisper"]) < 1e-5
    )  # FFTs of different processors agree to 3e-6
    mel = spectra.vocoder_mel(recording(12_000, 24_000))
    assert mel.shape == (80, 25)
    assert largest(mel[:, :12], golden["matcha"]) < 2e-5
    assert largest(spectra.kaldi_mel(SECOND)[:20], golden["kaldi"]) < 2e-4  # faint bands
    # controls: another sound is not within those tolerances
    assert largest(spectra.kaldi_mel(SECOND * 0.9)[:20], golden["kaldi"]) > 1e-1
    assert largest(spectra.whisper_mel(SECOND * 0.9)[:, :20], golden["whisper"]) > 1e-4


@pytest.mark.parametrize(("make", "hop"), [("vocoder_mel", 480), ("whisper_mel", 160)])
def test_spectrograms_of_very_short_sounds(make, hop):
    for samples in (0, 1, hop - 1, hop, hop + 1, 5 * hop):
        mel = getattr(spectra, make)(torch.zeros(samples))
        assert mel.shape[1] == samples // hop and mel.isfinite().all()
    assert spectra.kaldi_mel(torch.zeros(399)).shape == (0, 80)


def test_mel_filters_are_slaneys():
    """The area of each triangle is one, and below 1 kHz they stand at equal distances."""
    filters = spectra.mel_filters(961, 24_000, 80, 8000.0)
    assert torch.allclose(filters.sum(1) * 12_000 / 960, torch.ones(80), atol=0.05)
    peaks = filters[:25].argmax(1).double().diff()
    assert peaks.max() - peaks.min() <= 1
    filters_of = pytest.importorskip("librosa.filters", reason="the networks were trained on its")
    for bins, rate, mels in ((961, 24_000, 80), (201, 16_000, 128), (201, 16_000, 80)):
        expected = filters_of.mel(sr=rate, n_fft=2 * (bins - 1), n_mels=mels, fmax=8000.0)
        ours = spectra.mel_filters(bins, rate, mels, 8000.0)
        assert largest(ours, torch.tensor(expected)) < 1e-8
        single = sound.mel_filters(bins, rate, mels, 8000.0)
        assert 1e-8 < largest(single, torch.tensor(expected)) < 2e-7


def test_network_is_the_reference(golden, tmp_path):
    weights = {k.removeprefix("weights."): v for k, v in golden.items() if "weights." in k}
    state = {name: tensor.float().numpy() for name, tensor in weights.items()}
    path = small.speech_tokenizer(tmp_path / "ears.onnx", state, EARS["layers"])
    tokenizer = build("torch", path, EARS["layers"])
    mel = spectra.whisper_mel(SECOND)[None]
    with torch.no_grad():
        hidden = tokenizer.network.hidden(mel, torch.tensor([mel.shape[2]]))[0]
    assert largest(hidden, golden["hidden"]) < 1e-4 < 1.0 < hidden.abs().max()
    for engine in ("torch", "onnx"):
        assert torch.equal(build(engine, path, 1).encode(SECOND)[:, 0], golden["codes"].long())
    with torch.no_grad():
        tokenizer.network.blocks[0].memory.weight *= 1.5
    assert not torch.equal(tokenizer.encode(SECOND)[:, 0], golden["codes"].long())


def test_codes_are_digits_least_significant_first():
    """Values beyond the middle of two levels; 1 and -1 are never quite reached."""
    network = SpeechNetwork(128, 64, 0, 31)
    with torch.no_grad():
        network.project.weight.zero_()
        network.project.bias.copy_(torch.tensor([5.0, -5.0, 0.0, 0.6, 0.5, 0, 0, -0.6]))
        code = network(torch.zeros(1, 128, 4), torch.tensor([4]))
    assert code.tolist() == [[sum(d * 3**i for i, d in enumerate([2, 0, 1, 2, 1, 1, 1, 0]))]]


@pytest.mark.parametrize("folded", [False, True])
def test_both_engines_hear_the_same(tmp_path, folded):
    path = small.speech_tokenizer(tmp_path / "e.onnx", small.random_state(), 2, folded=folded)
    run, read = build("onnx", path), build("torch", path)
    for samples in (300, 5000, RATE):
        codes = run.encode(SECOND[:samples])
        assert codes.shape == (-(-(samples // 160) // 4), 1) and codes.dtype == torch.int64
        assert torch.equal(codes, read.encode(SECOND[:samples]))
    assert len(set(codes[:, 0].tolist())) > 5
    assert torch.equal(run.identity, read.identity) and run.identity.any()


def test_several_recordings_at_once_are_the_same_as_alone(folder):
    tokenizer = build("torch", folder / EARS_FILE)
    audios = [SECOND, SECOND[:4321], SECOND[:0], SECOND[:161]]
    for codes, audio in zip(tokenizer.encode_batch(audios), audios, strict=True):
        assert torch.equal(codes, tokenizer.encode(audio))
    assert tokenizer.encode_batch([]) == [] and codes.shape == (1, 1)


def test_long_recordings_are_cut_into_windows_and_lose_no_code():
    for frames in (0, 1, 399, 400, 401, 2999, 3000, 3001, 5599, 5600, 5601, 9001):
        places = windows(frames)
        counts = []
        for (start, end), cut in zip(places, halves(len(places)), strict=True):
            assert start % 4 == 0 and 0 < end - start <= 3000
            counts += [*range(start // 4, -(-end // 4))][cut]
        assert counts == [*range(-(-frames // 4))]


def test_a_long_recording_is_heard_as_its_windows(folder):
    tokenizer = build("torch", folder / EARS_FILE)
    audio = recording(31 * RATE, RATE)
    codes = tokenizer.encode(audio)
    assert codes.shape == (31 * 25, 1)
    assert torch.equal(codes, build("onnx", folder / EARS_FILE).encode(audio))
    mel = spectra.whisper_mel(audio)[None]
    first = tokenizer.network(mel[:, :, :3000], torch.tensor([3000]))[0]
    assert torch.equal(codes[:700, 0], first[:700])


def test_a_release_is_loaded_by_weights(folder):
    tokenizer = build("onnx")
    tokenizer.load_release(folder)
    assert torch.equal(tokenizer.encode(SECOND), build("onnx", folder / EARS_FILE).encode(SECOND))
    with pytest.raises(CheckpointError, match="has no speech_tokenizer_v2.onnx"):
        tokenizer.load_release(folder / "nowhere")


def test_without_weights_it_says_what_to_name():
    with pytest.raises(CheckpointError, match="no weights") as caught:
        build("onnx").encode(SECOND)
    assert "speech_tokenizer.weights=FOLDER" in caught.value.do


def test_an_engine_that_is_none():
    with pytest.raises(ValueError, match="onnx or torch, not 'tensorrt'"):
        build("tensorrt")


def bad_files(folder):
    """Name -> bytes of files that are no speech tokenizer."""
    content = (folder / EARS_FILE).read_bytes()
    other = bytearray(content)
    other[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
    return {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "overwritten": bytes(other),
        "a web page": b"<!doctype html><html>404</html>",
        "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "another graph": (folder / "campplus.onnx").read_bytes(),
    }


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize(
    "kind", ["empty", "truncated", "overwritten", "a web page", "a pointer", "another graph"]
)
def test_files_that_are_no_speech_tokenizer(folder, tmp_path, engine, kind):
    path = tmp_path / EARS_FILE
    path.write_bytes(bad_files(folder)[kind])
    with pytest.raises(CheckpointError) as caught:
        build(engine, path).encode(SECOND)
    error = caught.value
    assert error.where == str(path) and error.do and len(error.what) < 1500
    assert "Traceback" not in error.what


def test_weights_in_other_files_are_not_followed(folder, tmp_path):
    onnx = pytest.importorskip("onnx", reason="makes such a file")
    (tmp_path / "secret").write_bytes(b"\0" * 4 * 64)
    model = onnx.load(folder / EARS_FILE)
    for held in model.graph.initializer:
        if held.name == "onnx::Conv_2217":
            held.ClearField("raw_data")
            held.data_location = onnx.TensorProto.EXTERNAL
            held.external_data.add(key="location", value="secret")
    path = tmp_path / EARS_FILE
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="in another file, which is not followed"):
        build("torch", path)


def test_a_layer_of_unknown_use_is_named(folder, tmp_path):
    onnx = pytest.importorskip("onnx", reason="makes such a file")
    model = onnx.load(folder / EARS_FILE)
    for node in model.graph.node:
        if node.name == "/blocks.1/attn/out/MatMul":
            node.name = "/blocks.1/attn/gate/MatMul"
    path = tmp_path / EARS_FILE
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="unknown use: /blocks.1/attn/gate/MatMul") as caught:
        build("torch", path)
    assert "engine=onnx" in caught.value.do
    with pytest.raises(CheckpointError, match="16 missing: blocks.2"):
        build("torch", folder / EARS_FILE, layers=3)


def test_codes_out_of_range_are_refused(tmp_path):
    state = small.random_state(layers=1)
    state["quantizer._codebook.project_down.bias"] *= float("nan")
    path = small.speech_tokenizer(tmp_path / EARS_FILE, state, 1)
    with pytest.raises(CheckpointError, match="25 of 0..6560 belong"):
        build("onnx", path).encode(SECOND)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_missing_package_is_named(folder, monkeypatch, engine):
    def missing(name, *others):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtra, match="needs the package onnx") as caught:
        build(engine, folder / EARS_FILE).encode(SECOND)
    assert "wishbone-tts[cosyvoice2]" in caught.value.do


def test_a_speaker_is_a_vector(folder):
    encoder = SpeakerEncoder.of_release(folder)
    vector = encoder.embed(Audio(SECOND, RATE))
    assert vector.shape == (192,) and vector.dtype == torch.float32
    # 24 kHz is resampled first: the same voice, nearly the same vector
    other = encoder.embed(Audio(recording(24_000, 24_000), 24_000))
    near = torch.nn.functional.cosine_similarity(vector, other, dim=0)
    assert near > 0.98
    # the mean over time is taken away, and loudness with it
    assert largest(encoder.embed(Audio(SECOND * 0.5, RATE)), vector) < 1e-2 < vector.abs().max()
    assert largest(encoder.embed(Audio(SECOND[:8000], RATE)), vector) > 1e-2


def test_speakers_that_cannot_be_told(folder, tmp_path):
    with pytest.raises(DataError, match="12 ms is too short"):
        SpeakerEncoder.of_release(folder).embed(Audio(SECOND[:200], RATE))
    with pytest.raises(CheckpointError, match="has no campplus.onnx"):
        SpeakerEncoder.of_release(tmp_path)
    small.speaker_encoder(tmp_path / "campplus.onnx", width=100)
    with pytest.raises(CheckpointError, match="made 100 numbers where 192"):
        SpeakerEncoder.of_release(tmp_path).embed(Audio(SECOND, RATE))
    with pytest.raises(CheckpointError, match="2 inputs where 1 belong"):
        SpeakerEncoder(folder / EARS_FILE).embed(Audio(SECOND, RATE))
    (tmp_path / "campplus.onnx").write_bytes((folder / "campplus.onnx").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="speaker encoder cannot be opened"):
        SpeakerEncoder.of_release(tmp_path).embed(Audio(SECOND, RATE))
