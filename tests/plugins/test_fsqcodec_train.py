"""How the codec is trained: what is cut from recordings, what each stage begins with and learns."""

import numpy as np
import pytest
import torch

from wishbone.core.contract.errors import CheckpointError, DataError, UsageError
from wishbone.plugins.fsqcodec import corpus, train
from wishbone.plugins.fsqcodec.decoder import HOP, SAMPLE_RATE
from wishbone.plugins.fsqcodec.tokenizer import SAMPLES, FSQCodecTokenizer


def silence(frames: int) -> corpus.Recording:
    return corpus.Recording(
        np.zeros(frames * SAMPLES, np.int16),
        np.full(4 * frames, 100.0, np.float32),
        np.zeros(4 * frames, bool),
        np.zeros(2 * frames, np.int8),
    )


def test_crops_of_recordings_that_are_too_short():
    draw = np.random.default_rng(0)
    assert corpus.Crops([[silence(2)]], 2, draw).batch(3).audio.shape == (3, 2 * SAMPLES)
    for groups in ([], [[]], [[silence(2)]], [[silence(9)], [silence(2)]]):
        with pytest.raises(DataError, match="long enough"):
            corpus.Crops(groups, 3, draw)
    with pytest.raises(DataError, match="long enough"):
        corpus.Crops([[silence(2)]], 2, draw, stretched=0.5)


def test_a_voice_with_little_audio_is_still_heard():
    loud = silence(8)
    loud.audio += 1000
    crops = corpus.Crops([[silence(8)] * 16, [loud]], 2, np.random.default_rng(0))
    share = (crops.batch(400).audio[:, 0] > 0).float().mean()
    assert 0.15 < share < 0.25  # 1 in 4 + 1 by the square root, where 1 in 17 recordings is loud


@pytest.mark.parametrize("length", [16, 13, 20])
def test_a_cut_played_faster_is_higher_and_keeps_its_labels_in_place(length):
    """A tone of 300 Hz, then 600 Hz, with labels and pitch that say so."""
    frames = 16
    time = np.arange(frames * SAMPLES) / SAMPLE_RATE
    late = time >= 5 * SAMPLES / SAMPLE_RATE
    hertz = np.where(late, 600.0, 300.0)
    item = corpus.Recording(
        (np.sin(2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE) * 20000).astype(np.int16),
        hertz[HOP - 1 :: HOP].astype(np.float32) / 4,
        late[HOP - 1 :: HOP],
        late[:: SAMPLES // 2].astype(np.int8),
    )
    audio, pitch, voiced, labels = corpus._cut(item, 2, length, 8)
    factor = length / 16
    assert len(audio) == 8 * SAMPLES and len(labels) == 16 and len(pitch) == len(voiced) == 32
    edge = 8 / factor  # of 16 labels
    assert abs(int((labels == 0).sum()) - edge) <= 1
    assert abs(int((~voiced).sum()) / 2 - edge) <= 1
    for part, heard, expected in (
        (audio[: int(edge - 1) * 480], pitch[: int(edge - 1) * 2], 300),
        (audio[int(edge + 1) * 480 :], pitch[int(edge + 2) * 2 :], 600),
    ):
        crossings = np.diff(part > 0).sum() / 2 / (len(part) / SAMPLE_RATE)
        assert abs(crossings - expected * factor) < 12
        assert np.allclose(heard, expected / 4 * factor, rtol=0.02)
    assert 0.5 < np.abs(audio).max() < 0.75


def test_an_earlier_stage_of_one_voice_can_be_taught_others(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    alone, many = train.Trainee(), train.Trainee(speaker_width=8)
    save_file(alone.state_dict(), tmp_path / "alone.safetensors")
    train._begin_from(many, tmp_path / "alone.safetensors")
    assert torch.equal(many.tokenizer.project.weight, alone.tokenizer.project.weight)
    save_file(many.state_dict(), tmp_path / "many.safetensors")
    with pytest.raises(CheckpointError, match="do not fit"):
        train._begin_from(alone, tmp_path / "many.safetensors")


def test_a_tokenizer_that_has_grown_begins_as_what_it_was(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    small = train.Trainee()
    larger = FSQCodecTokenizer.Config(fine_blocks=4, blocks=5, burst_mels=24)
    grown = train.Trainee(tokenizer=larger)
    save_file(small.state_dict(), tmp_path / "small.safetensors")
    train._begin_from(grown, tmp_path / "small.safetensors")
    audio = torch.randn(2, 12 * SAMPLES) * 0.1
    assert torch.equal(grown.tokenizer.values(audio), small.tokenizer.values(audio))
    grown.tokenizer.values(audio).sum().backward()
    for new in (grown.tokenizer.bursts_out.weight, grown.tokenizer.fine[3].scale):
        assert new.grad.abs().max() > 0
    torch.nn.init.normal_(grown.tokenizer.bursts_out.weight)
    assert not torch.equal(grown.tokenizer.values(audio), small.tokenizer.values(audio))


@pytest.mark.parametrize("other", [{"blocks": 3}, {"width": 32}])
def test_a_tokenizer_does_not_shrink_and_keeps_its_width(tmp_path, other):
    from safetensors.torch import save_file

    save_file(train.Trainee().state_dict(), tmp_path / "whole.safetensors")
    model = train.Trainee(tokenizer=FSQCodecTokenizer.Config(**other))
    with pytest.raises(CheckpointError, match="tensors do not fit, 'tokenizer") as caught:
        train._begin_from(model, tmp_path / "whole.safetensors")
    assert len(str(caught.value)) < 400


def options_of(folder, **values):
    return train.TrainOptions(out=folder, audio=[folder], **values)


def test_settings_of_a_tokenizer_follow_the_run_it_starts_from(tmp_path):
    (tmp_path / "config.json").write_text('{"tokenizer": {"blocks": 6, "burst_mels": 48}}')
    options = options_of(tmp_path, start=tmp_path / "model.safetensors", tokenizer=["blocks=7"])
    settings = train._tokenizer_settings(options)
    assert (settings.blocks, settings.burst_mels, settings.fine_blocks) == (7, 48, 3)
    for wrong in ("layers=3", "blocks=many"):
        options = options_of(tmp_path, tokenizer=[wrong])
        with pytest.raises(UsageError, match=wrong):
            train._tokenizer_settings(options)


@pytest.mark.parametrize("fast", [True, False])
def test_muon_takes_the_matrices_alone(monkeypatch, fast):
    monkeypatch.setattr(train, "multiplies_bfloat16_faster", lambda device: fast)
    model = train.Trainee()
    adamw, muon = train.make_optimizers(list(model.parameters()), 1e-3, 2.0)
    assert {p.ndim for g in muon.param_groups for p in g["params"]} == {2}
    assert 2 not in {p.ndim for g in adamw.param_groups for p in g["params"]}
    assert muon.defaults["lr"] == pytest.approx(2e-3)
    # in float32 where bfloat16 is emulated
    assert isinstance(muon, train.Float32Muon) != fast
    assert len(train.make_optimizers(list(model.parameters()), 1e-3, 0.0)) == 1


def test_a_decoder_of_one_voice_can_be_taken_over_by_another_run(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    alone, many = train.Trainee(), train.Trainee(speaker_width=8)
    torch.nn.init.normal_(many.decoder.modulation.project.weight)
    code = many.tokenizer.project.weight.clone()
    save_file(alone.state_dict(), tmp_path / "alone.safetensors")
    train._take_decoder(many, tmp_path / "alone.safetensors")
    assert torch.equal(many.tokenizer.project.weight, code)
    codes = torch.randint(0, 6561, (5, 1))
    assert torch.equal(many.decoder.eval().decode(codes), alone.decoder.eval().decode(codes))
    # one that was told voices keeps what it knows of them
    torch.nn.init.normal_(many.decoder.modulation.project.weight)
    save_file(many.state_dict(), tmp_path / "many.safetensors")
    other = train.Trainee(speaker_width=8)
    train._take_decoder(other, tmp_path / "many.safetensors")
    told = many.decoder.modulation.project.weight
    assert torch.equal(other.decoder.modulation.project.weight, told)
    save_file({"tokenizer.project.weight": code}, tmp_path / "code.safetensors")
    with pytest.raises(CheckpointError, match="no decoder"):
        train._take_decoder(many, tmp_path / "code.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(CheckpointError, match="text.safetensors"):
        train._take_decoder(many, tmp_path / "text.safetensors")


def test_what_was_prepared_is_what_is_loaded_again(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'wishbone-tts[train]'")
    pyarrow = pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]'")
    draw = np.random.default_rng(0)
    made = [
        corpus.Recording(
            draw.integers(-99, 99, SAMPLES * n).astype(np.int16),
            draw.random(4 * n, np.float32),
            draw.random(4 * n) > 0.5,
            draw.integers(-1, 40, 2 * n).astype(np.int8),
        )
        for n in (3, 1, 2)
    ]
    parquet.write_table(pyarrow.table({"id": ["0", "1", "2"]}), tmp_path / "a.parquet")
    calls = []

    def recording(row):
        calls.append(row["id"])
        return made[int(row["id"])]

    monkeypatch.setattr(corpus, "recording", recording)
    for _ in range(2):
        (loaded,), files = corpus.load([tmp_path], hours=1)
        assert calls == ["0", "1", "2"] and files == [tmp_path / "a.parquet"]
        for ours, theirs in zip(loaded, made, strict=True):
            for name in ("audio", "pitch", "voiced", "labels"):
                assert np.array_equal(getattr(ours, name), getattr(theirs, name))
    # other data under the same name is prepared anew
    parquet.write_table(pyarrow.table({"id": ["2"]}), tmp_path / "a.parquet")
    assert len(corpus.load([tmp_path], hours=1)[0][0]) == 1 and calls[3:] == ["2"]
    # and so is what another version of the recipe worked out
    monkeypatch.setattr(corpus, "PREPARED", corpus.PREPARED + 1)
    assert len(corpus.load([tmp_path], hours=1)[0][0]) == 1 and calls[3:] == ["2", "2"]


def test_training_does_not_write_over_a_model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(UsageError, match="holds a model"):
        train.main([str(tmp_path), "--audio", str(tmp_path)])
    assert (tmp_path / "model.safetensors").read_bytes() == b"mine"


def test_training_counted_in_steps_takes_as_many_and_slows_towards_the_end(tmp_path, monkeypatch):
    """With a stand-in for the losses: what is counted, and the learning rate, are the loop's."""
    rates, model = [], train.Trainee()

    def step(trainee, measure, batch, phoneme_weight, semantic_weight):
        return {"loss": trainee.mel_reader.weight.sum() * 0.0}

    class Optimizer(torch.optim.SGD):
        def __init__(self, parameters, rate, betas, fused):
            super().__init__(parameters, rate)

        def step(self):
            rates.append(self.param_groups[0]["lr"])

    monkeypatch.setattr(train, "step_code", step)
    monkeypatch.setattr(torch.optim, "AdamW", Optimizer)
    monkeypatch.setattr(train, "save", lambda *_: None)
    options = options_of(tmp_path, learning_rate=1.0, steps=400, minutes=0.0, batch=1)
    group = [[silence(train.CROP)]]
    train.train(model, group, group, options, "")
    assert len(rates) == 400
    assert rates[0] == 0.01 and max(rates) == rates[99] and rates[-1] < 0.06


@pytest.mark.parametrize("stage", ["code", "sound"])
def test_both_stages_teach_the_decoder_whose_voice_it_is(stage):
    torch.manual_seed(0)
    model = train.Trainee(speaker_width=8)
    batch = corpus.Crops([[silence(train.CROP)]], train.CROP, np.random.default_rng(0)).batch(2)
    batch.audio = torch.randn_like(batch.audio) * 0.1
    if stage == "code":
        mel = train.LogMel(SAMPLE_RATE, 1024, 240, 80, 11_000.0)
        losses = train.step_code(model, mel, batch)
    else:
        losses = train.step_sound(model, train.Spectra(), batch)
    torch.stack(list(losses.values())).sum().backward()
    gradient = model.decoder.modulation.project.weight.grad
    assert gradient is not None and gradient.abs().max() > 0
