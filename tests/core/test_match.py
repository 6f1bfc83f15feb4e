"""Two backbones at one price."""

import pytest

from wishbone.core.cli.match import main
from wishbone.core.contract.errors import GateFailed
from wishbone.core.evaluate.experiment.match_size import match
from wishbone.core.system.build import build_model
from wishbone.core.system.spec import read
from wishbone.plugins.rwkv7.backbone import RWKV7
from wishbone.plugins.transformer.backbone import Transformer

BASE = """\
tokenizer: {name: characters}
speech_tokenizer: {name: fsqcodec}
layout: {name: cosyvoice2}
head: {name: linear}
decoder: {name: fsqcodec}
"""
ARMS = {
    "transformer": "backbone: {name: transformer, width: 128, layers: 3, heads: 4, kv_heads: 2,"
    " ffn_width: 384}",
    "rwkv7": "backbone: {name: rwkv7, width: 128, layers: 3, head_size: 32}",
    "stack": "backbone: {name: stack, width: 128, layers: 3, mixer: attention}",
    "pattern": "backbone: {name: stack, width: 128, repeat: 2, ffn: rwkv7_channel_mix,"
    " blocks: [{mixer: {name: rwkv7, head_size: 32}, times: 2}, {mixer: attention}]}",
}


@pytest.fixture
def arms(tmp_path):
    for name, line in ARMS.items():
        (tmp_path / f"{name}.yaml").write_text(BASE + line + "\n")
    return tmp_path


def count(config):
    return sum(p.numel() for p in build_model(config, "meta").parameters())


@pytest.mark.parametrize(
    ("a", "b"),
    [("transformer", "rwkv7"), ("rwkv7", "transformer"), ("rwkv7", "stack"), ("rwkv7", "pattern")],
)
def test_the_size_found_is_the_size_built(arms, a, b):
    left, right = read(arms / f"{a}.yaml"), read(arms / f"{b}.yaml")
    found = match(left, right)
    words = [f"backbone.{key}={value}" for key, value in found.fields.items()]
    assert count(read(arms / f"{b}.yaml", words)) == found.parameters
    assert found.target == count(left)
    assert abs(found.difference) <= 0.01


def test_an_equal_pair_is_left_alone(arms):
    config = read(arms / "rwkv7.yaml")
    found = match(config, config)
    assert (found.fields, found.difference) == ({"width": 128, "layers": 3}, 0.0)


def test_what_cannot_be_matched_fails_the_gate(arms):
    left = read(arms / "transformer.yaml", ["backbone.width=1024", "backbone.layers=12"])
    right = read(arms / "rwkv7.yaml", ["backbone.width=32", "backbone.layers=1"])
    with pytest.raises(GateFailed, match="nearest"):
        match(left, right)


def test_the_nearest_size_says_how_near_it_is(arms):
    left = read(arms / "transformer.yaml", ["backbone.width=1024", "backbone.layers=12"])
    right = read(arms / "rwkv7.yaml", ["backbone.width=32", "backbone.layers=1"])
    with pytest.raises(GateFailed, match=r"nearest has width: \d+, layers: \d+.* \(-\d+\.\d\d %\)"):
        match(left, right)


def test_a_shape_that_does_not_run_is_not_proposed(arms, monkeypatch):
    left, right = read(arms / "transformer.yaml"), read(arms / "rwkv7.yaml")
    first = match(left, right)
    whole, ran = RWKV7.forward, []

    def refuses(self, x, state=None, *, mask=None):
        ran.append(self.width)
        if self.width == first.fields["width"]:
            raise ValueError("not at this width")
        return whole(self, x, state, mask=mask)

    monkeypatch.setattr(RWKV7, "forward", refuses)
    other = match(left, right, 0.1)
    assert other.fields["width"] != first.fields["width"] and abs(other.difference) <= 0.1
    monkeypatch.setattr(RWKV7, "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(GateFailed, match="ZeroDivisionError"):
        match(left, right)


def test_sizes_are_the_fields_that_a_backbone_declares(arms, monkeypatch):
    left, right = read(arms / "rwkv7.yaml"), read(arms / "transformer.yaml")
    assert "ffn_width" in match(left, right).fields
    monkeypatch.setattr(Transformer, "size_fields", {})
    assert "ffn_width" not in match(left, right, 0.1).fields


def test_fields_that_were_set_stay_in_the_line(arms, capsys):
    path = arms / "rwkv7.yaml"
    path.write_text(path.read_text().replace("head_size: 32", "head_size: 32, gate_rank: 8"))
    assert main([str(arms / "transformer.yaml"), str(path)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert "head_size: 32" in line and "gate_rank: 8" in line


def test_the_command_prints_the_line_for_the_file(arms, capsys):
    assert main([str(arms / "transformer.yaml"), str(arms / "rwkv7.yaml")]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    (arms / "done.yaml").write_text(BASE + line + "\n")
    a, b = count(read(arms / "transformer.yaml")), count(read(arms / "done.yaml"))
    assert abs(b / a - 1) <= 0.01
