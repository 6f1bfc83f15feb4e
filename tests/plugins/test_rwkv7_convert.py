"""Files of RWKV-LM and of fla become our tensors and come back with every bit in its place."""

import json

import pytest
import torch
from rwkv7_files import squeezed, trained_looking

from wishbone.core.cli import main
from wishbone.core.contract.errors import CheckpointError
from wishbone.core.system.loading import load_part, load_tensors
from wishbone.core.weights.tensor_files import read_tensors, write_tensors
from wishbone.plugins.rwkv7.backbone import RWKV7
from wishbone.plugins.rwkv7.convert import FLA, RULES, RWKVLM


def same(actual, expected):
    """Names, shapes, types and bits."""
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].shape == tensor.shape, name
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rwkv_lm_to_fla_and_back_keeps_every_bit(dtype):
    source = {name: tensor.to(dtype) for name, tensor in trained_looking().items()}
    ours = RWKVLM.ours(source)
    fla = FLA.theirs(ours.tensors | ours.tables)
    again = FLA.ours(fla)
    same(again.tensors, ours.tensors)
    same(RWKVLM.theirs(again.tensors | again.tables), source)


def test_every_name_is_accounted_for():
    source = trained_looking()
    source["blocks.0.att.v0"] = torch.ones(1, 1, 96)
    ours = RWKVLM.ours(source)
    assert ours.account.keys() == source.keys()
    assert ours.account["blocks.0.att.v0"].startswith("left out")
    assert ours.account["blocks.2.att.x_g"] == "blocks.2.time_mix.x_g"
    load_tensors(RWKV7(RWKV7.Config(**ours_fields(ours))), ours.tensors)


def ours_fields(converted):
    return {key: value for key, value in converted.config.items() if key != "name"}


def test_the_table_uses_no_name_twice():
    for column in (0, 1, 3):
        names = [rule[column] for rule in RULES]
        assert len(set(names)) == len(names)


def test_sizes_come_from_the_tensors():
    config = RWKVLM.ours(trained_looking()).config
    assert config == {
        "name": "rwkv7", "width": 96, "layers": 3, "head_size": 32, "ffn_width": 200,
        "decay_rank": 16, "rate_rank": 12, "value_rank": 8, "gate_rank": 24,
        "group_norm_eps": 64e-5, "dropout": 0.0,
    }  # fmt: skip


def test_squeezed_and_prefixed_files_are_the_same_model():
    source = trained_looking()
    expected = RWKVLM.ours(source).tensors
    same(RWKVLM.ours(squeezed(source)).tensors, expected)
    same(RWKVLM.ours({f"_forward_module.{n}": t for n, t in source.items()}).tensors, expected)


def test_fla_shapes_are_those_of_fla():
    ours = RWKVLM.ours(trained_looking())
    fla = FLA.theirs(ours.tensors | ours.tables)
    attention = "model.layers.1.attn."
    assert fla[attention + "w_lora.lora.0.weight"].shape == (16, 96)
    assert fla[attention + "w_lora.lora.2.weight"].shape == (96, 16)
    assert fla[attention + "w_lora.lora.2.bias"].shape == (96,)
    assert fla[attention + "x_r"].shape == (1, 1, 96)
    assert fla[attention + "k_k"].shape == (96,)
    assert not any("layers.0.attn.v_lora" in name for name in fla)
    assert not any("g_lora.lora.2.bias" in name for name in fla)


def test_the_six_rows_of_old_fla_files(tmp_path):
    ours = RWKVLM.ours(trained_looking())
    fla = FLA.theirs(ours.tensors | ours.tables)
    for layer in range(3):
        stem = f"model.layers.{layer}.attn."
        rows = [fla.pop(f"{stem}x_{letter}").reshape(-1) for letter in "rwkvag"]
        fla[stem + "x_x"] = torch.stack(rows)
    write_tensors(tmp_path / "model.safetensors", fla)
    same(FLA().read(tmp_path).tensors, ours.tensors)


def test_what_is_not_an_rwkv7_is_refused():
    source = trained_looking()
    with pytest.raises(CheckpointError, match=r"blocks\.1\.att\.time_decay"):
        RWKVLM.ours(source | {"blocks.1.att.time_decay": torch.ones(96)})
    del source["blocks.1.att.g2"]
    with pytest.raises(CheckpointError, match=r"1 tensors are missing: blocks\.1\.time_mix\.g2"):
        RWKVLM.ours(source)


def test_the_command_both_ways(tmp_path, capsys):
    source = trained_looking(head_size=64, width=128)
    torch.save(source, tmp_path / "theirs.pth")
    ours, back = str(tmp_path / "ours"), str(tmp_path / "back.pth")
    assert main.main(["convert", "rwkv-lm", str(tmp_path / "theirs.pth"), ours, "--list"]) == 0
    printed = capsys.readouterr().out
    assert "blocks.0.att.w0 -> blocks.0.time_mix.w0" in printed
    model = RWKV7(RWKV7.Config(**ours_fields(RWKVLM.ours(source))))
    load_part(model, tmp_path / "ours", "backbone")
    assert torch.equal(model.blocks[1].time_mix.mix[5], source["blocks.1.att.x_g"].flatten())
    assert main.main(["convert", "rwkv-lm", ours, back, "--out"]) == 0
    same(read_tensors(back), source)
    fla = tmp_path / "fla"
    assert main.main(["convert", "fla", ours, str(fla), "--out"]) == 0
    assert json.loads((fla / "config.json").read_text())["v_low_rank_dim"] == 8
    assert main.main(["convert", "fla", str(fla), str(tmp_path / "again")]) == 0
    same(read_tensors(tmp_path / "again" / "model.safetensors"), model.state_dict())


def test_a_group_norm_the_format_cannot_say_is_refused(tmp_path):
    ours = RWKVLM.ours(trained_looking(head_size=32))
    with pytest.raises(CheckpointError, match=r"fla norms heads of 32"):
        FLA().write(ours.tensors, ours.config, tmp_path / "fla")
    with pytest.raises(CheckpointError, match=r"RWKV-LM norms heads with 64e-5"):
        config = ours.config | {"group_norm_eps": 32e-5}
        RWKVLM().write(ours.tensors, config, tmp_path / "lm.pth")
