"""A recogniser's features as a target of the code: where they lie in time, and what they teach."""

import sys

import numpy as np
import pytest
import torch

from wishbone.plugins.fsqcodec import corpus, semantic, train
from wishbone.plugins.fsqcodec.decoder import SAMPLE_RATE, SAMPLES


def recording(frames: int, features: np.ndarray | None = None) -> corpus.Recording:
    return corpus.Recording(
        np.zeros(frames * SAMPLES, np.int16),
        np.full(4 * frames, 100.0, np.float32),
        np.zeros(4 * frames, bool),
        np.arange(2 * frames).astype(np.int8),
        features,
    )


class Loudness:
    """Stands in for a recogniser: the vector of each 20 ms is its mean magnitude."""

    calls = 0

    def __init__(self, weights):
        pass

    def encode(self, wave):
        Loudness.calls += 1
        step = len(wave) // (len(wave) // 320)
        steps = np.abs(wave[: len(wave) // step * step]).reshape(-1, step).mean(axis=1)
        encoded = np.zeros((semantic.WINDOW, semantic.WIDTH), np.float32)
        encoded[: len(steps)] = steps[: semantic.WINDOW, None]
        return encoded


def test_recordings_that_share_a_window_get_their_own_moments(monkeypatch):
    pytest.importorskip("torchaudio", reason="pip install 'wishbone-tts[train]'")
    monkeypatch.setattr(semantic, "Recogniser", Loudness)
    monkeypatch.setattr(semantic, "need", lambda *_: None)
    Loudness.calls = 0
    levels = [(300, 9000, 300), (9000, 300, 300), (300, 300, 9000), (9000, 9000, 300)]
    tone = np.sign(np.sin(np.arange(480 * 60) * 0.3))
    audios = [
        np.concatenate([tone * level for level in three]).astype(np.int16) for three in levels
    ]  # 3.6 s each, 180 steps
    found = semantic.features(audios)
    assert Loudness.calls == 1
    assert [one.shape for one in found] == [(180, semantic.WIDTH)] * 4
    for one, three in zip(found, levels, strict=True):
        for place, level in enumerate(three):
            middle = one[60 * place + 5 : 60 * place + 55, 0].astype(float)
            assert ((middle > 0) == (level > 1000)).all()
    everything = np.concatenate(found).astype(float)
    assert abs(everything.mean()) < 0.01 and abs(everything.std() - 1) < 0.02
    # what does not fit into 30 s begins another window; what is longer than one is cut off there
    semantic.features([audios[0]] * 9)
    assert Loudness.calls == 3
    long = semantic.features([np.tile(audios[0], 10)])[0]
    assert len(long) == 1800 and (long[1500:] == long[1500]).all()


def test_without_the_recogniser_it_is_named(monkeypatch):
    from wishbone.core.contract.errors import MissingExtra

    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(MissingExtra, match="faster-whisper"):
        semantic.features([np.zeros(480, np.int16)])


@pytest.mark.parametrize("stretched", [0.0, 1.0])
def test_a_cut_takes_the_features_of_its_own_labels(stretched):
    frames = 40
    rows = np.repeat(np.arange(2 * frames)[:, None], semantic.WIDTH, 1).astype(np.float16)
    groups = [[recording(frames, rows)]]
    batch = corpus.Crops(groups, 8, np.random.default_rng(3), stretched).batch(20)
    assert torch.equal(batch.semantic[..., 0], batch.labels.float())
    assert (
        corpus.Crops([[recording(frames)]], 8, np.random.default_rng(3)).batch(2).semantic is None
    )


def test_the_features_are_made_once_and_found_again(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]'")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'wishbone-tts[train]'")
    parquet.write_table(pyarrow.table({"id": ["3", "2"]}), tmp_path / "a.parquet")
    calls = []

    def features(audios):
        calls.append(len(audios))
        return [np.full((len(a) // 480, 4), len(a), np.float16) for a in audios]

    monkeypatch.setattr(corpus, "recording", lambda row: recording(int(row["id"])))
    monkeypatch.setattr(corpus, "features", features)
    assert corpus.load([tmp_path], 1.0)[0][0][0].semantic is None and not calls
    for _ in range(2):
        (group,), _ = corpus.load([tmp_path], 1.0, semantic=True)
        assert calls == [2]
        assert [item.semantic.shape for item in group] == [(6, 4), (4, 4)]
        assert [item.semantic[0, 0] for item in group] == [3 * SAMPLES, 2 * SAMPLES]


def test_the_code_learns_from_the_features_and_not_without_a_weight():
    torch.manual_seed(0)
    model = train.Trainee()
    rows = np.random.default_rng(0).normal(size=(96, semantic.WIDTH)).astype(np.float16)
    batch = corpus.Crops([[recording(48, rows)]], 48, np.random.default_rng(0)).batch(2)
    batch.audio = torch.randn_like(batch.audio) * 0.1
    batch.labels.fill_(1)
    mel = train.LogMel(SAMPLE_RATE, 1024, 240, 80, 11_000.0)
    for weight in (0.0, 1.0):
        losses = train.step_code(model, mel, batch, semantic_weight=weight)
        (gradient,) = torch.autograd.grad(losses["semantic"], model.tokenizer.project.weight)
        assert bool(gradient.abs().max() > 0) == (weight > 0)


def test_readers_that_a_codec_lacks_learn_alone_at_first(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    from wishbone.plugins.fsqcodec.export import codec_tensors

    torch.manual_seed(0)
    trained, model = train.Trainee(), train.Trainee()
    save_file(codec_tensors(trained.state_dict()), tmp_path / "codec.safetensors")
    save_file(trained.state_dict(), tmp_path / "run.safetensors")
    assert not train._begin_from(model, tmp_path / "run.safetensors")
    assert train._begin_from(model, tmp_path / "codec.safetensors")
    moved = []

    def step(trainee, *_, **weights):
        code = trainee.tokenizer.project.weight.detach().clone()
        moved.append((code, trainee.reader.exit.weight.sum().item()))
        return {"loss": sum((parameter**2).sum() for parameter in trainee.parameters())}

    monkeypatch.setattr(train, "step_code", step)
    monkeypatch.setattr(train, "save", lambda *_: None)
    options = train.TrainOptions(out=tmp_path, audio=[tmp_path], steps=6, batch=1)
    group = [[recording(train.CROP)]]
    train.train(model, group, group, options, "", reader_steps=3)
    code, reader = zip(*moved, strict=True)
    same = [torch.equal(a, b) for a, b in zip(code, code[1:], strict=False)]
    assert same == [True, True, True, False, False]
    assert len(set(reader)) == 6
