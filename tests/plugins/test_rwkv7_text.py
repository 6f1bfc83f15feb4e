"""Models of text in RWKV-LM's form, in and out, and what they continue with."""

import pytest
import rwkv7_files
import torch

from wishbone.core.cli.convert import main
from wishbone.core.contract.errors import CheckpointError
from wishbone.core.system import text_system
from wishbone.core.weights.tensor_files import read_tensors
from wishbone.plugins.rwkv7.convert_text import Text

TOKENS = [*(bytes([byte]) for byte in range(256)), b"ab"]
"""Every byte has an id, one more than itself, as in World."""
VOCABULARY = 260


def write_world(folder):
    """A vocabulary in World's form, too small to say much."""
    folder.mkdir()
    rows = [f"{i} {token!r} {len(token)}" for i, token in enumerate(TOKENS, start=1)]
    (folder / "rwkv_vocab_v20230424.txt").write_text("\n".join(rows) + "\n")
    return folder


def test_a_world_model_becomes_a_text_system_and_comes_back(tmp_path):
    tensors = rwkv7_files.trained_looking(
        width=64, head_size=32, ffn_width=128, vocabulary=VOCABULARY
    )
    torch.save(tensors, tmp_path / "world.pth")
    assert main(["rwkv-lm-text", str(tmp_path / "world.pth"), str(tmp_path / "ours")]) == 0
    vocabulary = write_world(tmp_path / "vocabulary")
    config = text_system.read(tmp_path / "ours", [f"tokenizer.release={vocabulary}"])
    system = text_system.build(config)
    assert system.layout.end == 0 and system.layout.extra == 0
    ids = system.tokenizer.encode("ab a")
    assert ids == [257, 33, 98] and system.tokenizer.decode(ids) == "ab a"
    # the same tables around the same backbone
    row = torch.tensor([[0, *ids]])
    hidden, _ = system.model.backbone(tensors["emb.weight"][row])
    expected = hidden @ tensors["head.weight"].T
    assert torch.allclose(system.logits(["ab a"]), expected, atol=1e-5)
    assert main(["rwkv-lm-text", str(tmp_path / "ours"), str(tmp_path / "back.pth"), "--out"]) == 0
    back = read_tensors(tmp_path / "back.pth")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name].flatten(), tensors[name].flatten()) for name in tensors)


def test_logits_are_those_of_the_official_package(tmp_path, monkeypatch):
    pytest.importorskip("rwkv", reason="pip install rwkv: the official inference package")
    monkeypatch.setenv("RWKV_V7_ON", "1")
    monkeypatch.setenv("RWKV_JIT_ON", "0")
    from rwkv.model import RWKV

    tensors = rwkv7_files.trained_looking(
        width=128, head_size=64, ffn_width=512, vocabulary=VOCABULARY
    )
    # the package looks for these in every block
    for name in ("v0", "v1", "v2"):
        tensors[f"blocks.0.att.{name}"] = tensors[f"blocks.1.att.{name}"]
    torch.save(tensors, tmp_path / "world.pth")
    assert main(["rwkv-lm-text", str(tmp_path / "world.pth"), str(tmp_path / "ours")]) == 0
    vocabulary = write_world(tmp_path / "vocabulary")
    config = text_system.read(tmp_path / "ours", [f"tokenizer.release={vocabulary}"])
    converted = text_system.build(config).logits(["ab a ba"])[0]
    foreign = RWKV(model=str(tmp_path / "world"), strategy="cpu fp32")
    expected, state = [], None
    for row in [0, *text_system.build(config).tokenizer.encode("ab a ba")]:
        logits, state = foreign.forward([row], state)
        expected.append(logits)
    assert (converted - torch.stack(expected)).abs().max() < 1e-4


def test_a_backbone_alone_is_no_text_model(tmp_path):
    tensors = rwkv7_files.trained_looking()
    del tensors["head.weight"]
    torch.save(tensors, tmp_path / "backbone.pth")
    with pytest.raises(CheckpointError, match="without tables.head"):
        Text().read(tmp_path / "backbone.pth")
