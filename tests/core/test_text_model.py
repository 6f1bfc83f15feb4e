"""Models of text: their systems, their data, their training, and what a speech system takes."""

import json

import pytest
import torch

from wishbone.core.contract.errors import ConfigError, DataError
from wishbone.core.contract.layout import Sample
from wishbone.core.contract.text import TextSpace
from wishbone.core.model.sampling import Sampling
from wishbone.core.speak.speaker import build
from wishbone.core.system import text_system
from wishbone.core.system.build import build_model
from wishbone.core.system.spec import resolve
from wishbone.core.system.text_layout import TextLayout

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")

from wishbone.core.cli.data import main as data  # noqa: E402
from wishbone.core.cli.train import main as train  # noqa: E402
from wishbone.core.data.shards import gathered  # noqa: E402
from wishbone.core.data.tokens import read_tokens  # noqa: E402
from wishbone.core.weights.tensor_files import read_tensors  # noqa: E402

BACKBONE = {"name": "transformer", "width": 32, "layers": 1, "heads": 2, "kv_heads": 1}
SYSTEM = {
    "task": "text",
    "tokenizer": {"name": "characters"},
    "backbone": {**BACKBONE, "ffn_width": 48},
    "head": {"name": "linear"},
}
SENTENCES = [f"The cat number {n} sat on the mat." for n in ("one", "two", "three", "four")] * 9


def write_all(folder):
    """Sentences, token data of them and a recipe; the recipe's path."""
    (folder / "sentences.txt").write_text("\n".join(SENTENCES[:4]) + "\n...\n" + SENTENCES[0])
    (folder / "text.yaml").write_text(json.dumps(SYSTEM))
    words = ["text", str(folder / "sentences.txt"), "--out", str(folder / "tokens")]
    assert data([*words, "--system", str(folder / "text.yaml")]) == 0
    recipe = {
        "system": str(folder / "text.yaml"), "data": str(folder / "tokens"), "held_out": 0.0,
        "out": str(folder / "run"), "steps": 6, "batch_positions": 160, "learning_rate": 3e-3,
        "warmup_steps": 2, "log_every": 1, "evaluate_every": 0, "checkpoint_minutes": 0,
        "checkpoint_every": 3, "precision": "fp32", "device": "cpu", "ema": 0,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return str(folder / "recipe.yaml")


def test_every_id_predicts_the_next_and_the_end_closes():
    layout = TextLayout(TextSpace(vocabulary=10))
    laid = layout.train(Sample([3, 4, 5], []), None)
    assert laid.ids[:, 0].tolist() == [10, 3, 4, 5] and layout.extra == 1
    assert laid.targets[:, 0].tolist() == [3, 4, 5, 10]
    own = TextLayout(TextSpace(vocabulary=10), end=0)
    assert own.extra == 0 and own.train(Sample([3], []), None).targets[:, 0].tolist() == [3, 0]
    with pytest.raises(ConfigError, match="'end' is 10"):
        TextLayout(TextSpace(vocabulary=10), end=10)


def test_a_text_system_resolves_and_is_told_from_one_that_speaks():
    config = resolve(SYSTEM)
    assert config["backbone"]["dropout"] == 0.0 and config["end"] == -1
    assert resolve(config) == config
    with pytest.raises(ConfigError, match="does not speak"):
        build(config)
    with pytest.raises(ConfigError, match="not a key of a text system"):
        resolve({**SYSTEM, "decoder": {"name": "fsqcodec"}})
    with pytest.raises(ConfigError, match="not a text system"):
        text_system.read("quickstart-rwkv7")


def test_data_are_ids_once_each_and_what_is_excluded_is_missing(tmp_path):
    write_all(tmp_path)
    corpus = read_tokens(tmp_path / "tokens")
    assert sorted(corpus.texts) == sorted(SENTENCES[:4]) and not len(corpus.codes.values)
    dropped = gathered(tmp_path / "tokens").total()["dropped"]
    assert dropped == {"nothing in it has an id": 1, "excluded, or there already": 1}
    (tmp_path / "out.txt").write_text("the cat number TWO sat on the mat\n")
    words = ["text", str(tmp_path / "sentences.txt"), "--system", str(tmp_path / "text.yaml")]
    less = [*words, "--out", str(tmp_path / "less"), "--exclude", str(tmp_path / "out.txt")]
    assert data([*less, "--count", "4"]) == 0
    assert sorted(read_tokens(tmp_path / "less").texts) == sorted(
        text for text in SENTENCES[:4] if "two" not in text
    )
    with pytest.raises(DataError, match="No line"):
        data([*words, "--out", str(tmp_path / "none"), "--exclude", str(tmp_path / "tokens")])


def test_a_text_model_learns_resumes_and_continues(tmp_path, monkeypatch):
    recipe = write_all(tmp_path)
    assert train([recipe]) == 0
    whole = read_tensors(tmp_path / "run" / "export" / "model.safetensors")
    # somebody asks it to stop after every step
    monkeypatch.setattr("wishbone.core.train.run._Interruptions.__call__", lambda _: True)
    codes = [train([recipe, f"out={tmp_path}/cut"])]
    while not (tmp_path / "cut" / "export").exists():
        codes.append(train([recipe, f"out={tmp_path}/cut"]))
    assert codes == [130] * 5 + [0]
    monkeypatch.undo()
    cut = read_tensors(tmp_path / "cut" / "export" / "model.safetensors")
    assert all(torch.equal(cut[name], tensor) for name, tensor in whole.items())
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in log if "loss" in json.loads(line)]
    assert losses[-1] < losses[0]
    system = text_system.build(text_system.read(tmp_path / "run" / "export"))
    drawn = list(system.continued("The cat", 12, seed=3))
    assert drawn == list(system.continued("The cat", 12, seed=3)) and len(drawn) <= 12
    greedy = Sampling(greedy=True, repetition_window=0)
    (first, *_) = system.continued("The cat", 1, greedy) or [system.layout.end]
    ids = system.tokenizer.encode("The cat")[:-1]
    state = torch.tensor([[system.layout.end, *ids]])
    hidden, _ = system.model(torch.zeros_like(state), state[..., None])
    assert first == int(system.model.head(hidden)[0, -1, 0].argmax())


def test_a_speech_system_takes_the_backbone_of_a_text_model(tmp_path):
    recipe = write_all(tmp_path)
    assert train([recipe, "steps=1"]) == 0
    from wishbone.core.config.compose import compose

    export = str(tmp_path / "run" / "export")
    backbone = {**SYSTEM["backbone"], "weights": export}
    speech = build_model({**compose("quickstart"), "weights": None, "backbone": backbone})
    tensors = read_tensors(tmp_path / "run" / "export" / "model.safetensors")
    for name, tensor in speech.backbone.state_dict().items():
        assert torch.equal(tensor, tensors[f"backbone.{name}"]), name
    # and a text model is built around a backbone that is there already
    text = text_system.build(text_system.read(export), backbone=speech.backbone)
    alone = text_system.build(text_system.read(export))
    assert text.model.backbone is speech.backbone
    assert torch.equal(text.logits(["a cat", "the"]), alone.logits(["a cat", "the"]))


def test_logits_of_a_batch_are_those_of_each_text():
    torch.manual_seed(0)
    system = text_system.build(SYSTEM)
    both = system.logits(["a longer one", "short"])
    alone = system.logits(["short"])
    assert torch.allclose(both[1, : alone.shape[1]], alone[0], atol=1e-5)
    assert not both[1, alone.shape[1] :].any() and both[0].any(-1).all()
