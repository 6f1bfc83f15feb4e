"""Adapters in and out of Hugging Face's folders, and what is wrong with a wrong one."""

import json

import pytest
import torch

pytest.importorskip("peft", reason="pip install 'wishbone-tts[adapt]'")

import peft
from peft_bases import BASES, adapted, answer, plain, vectors
from safetensors.torch import load_file, save_file

from wishbone.core.contract.errors import CheckpointError, UsageError
from wishbone.core.system.loading import load_tensors
from wishbone.plugins.peft.backbone import PEFT
from wishbone.plugins.peft.files import BASE, CONFIG, FILE, PREFIX, read_adapter, write_adapter
from wishbone.plugins.peft.names import fused_rows

ARMS = tuple(BASES)


@pytest.fixture(params=ARMS)
def arm(request):
    return request.param


def started(base, arm, folder, **fields):
    """A backbone whose own adapter begins as the one in ``folder``."""
    model = PEFT(
        PEFT.Config(base=BASES[arm], rank=4, start={"weights": str(folder)}, **fields)
    ).eval()
    load_tensors(model, base.state_dict())
    return model


@pytest.mark.parametrize("method", ["lora", "dora", "miss"])
def test_out_and_in_again_to_the_last_bit(arm, method, tmp_path):
    base = plain(arm)
    x, model = vectors(base), adapted(base, arm, seed=1, method=method)
    write_adapter(model.learned(), tmp_path / "adapter")
    again = started(base, arm, tmp_path / "adapter", method=method)
    assert torch.equal(answer(again, x), answer(model, x))
    loaded = again.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("method", ["lora", "dora", "miss", "pissa"])
def test_peft_reads_what_is_written(arm, method, tmp_path):
    """PiSSA goes out as LoRA of twice the rank, on the weights that it began with."""
    base = plain(arm)
    x, model = vectors(base), adapted(base, arm, seed=1, method=method)
    write_adapter(model.learned(), tmp_path / "adapter")
    reference = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").base_model.model.eval()
    torch.testing.assert_close(answer(reference, x), answer(model, x), rtol=1e-4, atol=1e-5)
    # the control: without the adapter it says something else
    assert (answer(plain(arm), x) - answer(model, x)).abs().max() > 1e-2


@pytest.mark.parametrize("method", ["lora", "dora", "miss"])
def test_what_peft_writes_is_read(arm, method, tmp_path):
    base = plain(arm)
    x = vectors(base)
    targets = list(adapted(base, arm).layers)
    config = peft.MissConfig(r=4, target_modules=targets)
    if method != "miss":
        config = peft.LoraConfig(
            r=4, lora_alpha=8, target_modules=targets, use_dora=method == "dora"
        )
    reference = peft.get_peft_model(plain(arm), config)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if "lora_" in name or "miss_" in name:
                parameter += 0.05 * torch.randn(parameter.shape)
    reference.save_pretrained(tmp_path / "adapter")
    alpha = {} if method == "miss" else {"alpha": 8.0}
    ours = started(base, arm, tmp_path / "adapter", method=method, **alpha)
    expected = answer(reference.base_model.model.eval(), x)
    torch.testing.assert_close(answer(ours, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "dora", "miss"])
def test_names_of_others_and_back(arm, method, tmp_path):
    """fla's names for RWKV-7; Qwen2's, which keep apart what is one matrix here."""
    base, style = plain(arm), {"rwkv7": "fla", "transformer": "qwen2"}[arm]
    x, model = vectors(base), adapted(base, arm, seed=1, method=method)
    write_adapter(model.learned(), tmp_path / "theirs", style, fused_rows(model.base))
    names = load_file(tmp_path / "theirs" / FILE)
    expected = {"fla": "attn.r_proj.", "qwen2": "self_attn.k_proj."}[style]
    assert any(f"model.layers.0.{expected}" in name for name in names)
    again = started(base, arm, tmp_path / "theirs", method=method)
    assert torch.equal(answer(again, x), answer(model, x))


def test_adapters_of_some_parts_of_a_fused_layer(tmp_path):
    """q and v alone, each with its own A, become one adapter of twice the rank."""
    base = plain("transformer")
    torch.manual_seed(0)
    parts, tensors = {"q_proj": slice(0, 64), "v_proj": slice(96, 128)}, {}
    weight = base.blocks[0].attention.qkv.weight
    expected = weight.clone().detach()
    for part, rows in parts.items():
        height = rows.stop - rows.start
        a, b = 0.1 * torch.randn(4, 64), 0.1 * torch.randn(height, 4)
        name = f"{PREFIX}model.layers.0.self_attn.{part}"
        tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
        expected[rows] += 2.0 * b @ a
    (tmp_path / "adapter").mkdir()
    save_file(tensors, tmp_path / "adapter" / FILE)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
    (tmp_path / "adapter" / CONFIG).write_text(json.dumps(config))
    fields = {"adapters": {"theirs": {"weights": str(tmp_path / "adapter")}}}
    model = adapted(base, "transformer", **fields)
    merged = model.merged("theirs").blocks[0].attention.qkv.weight
    torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-6)


def broken(tmp_path, config=None, tensors=None, drop=()):
    """A good folder, changed."""
    model = adapted(plain("rwkv7"), "rwkv7", seed=1)
    folder = write_adapter(model.learned(), tmp_path / "adapter")
    values = json.loads((folder / CONFIG).read_text()) | (config or {})
    (folder / CONFIG).write_text(json.dumps(values))
    held = load_file(folder / FILE)
    held = {name: tensor for name, tensor in held.items() if name not in drop} | (tensors or {})
    save_file(held, folder / FILE)
    return folder, model.layers


A = f"{PREFIX}blocks.0.time_mix.key.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"peft_type": "IA3"}}, "type IA3"),
        ({"config": {"r": 0}}, "rank 'r' is 0"),
        ({"config": {"r": True}}, "rank 'r' is True"),
        ({"config": {"r": 5}}, "has rank [4], the configuration 5"),
        ({"config": {"lora_alpha": "many"}}, "'lora_alpha' is many"),
        ({"config": {"bias": "all"}}, "not supported here: bias"),
        ({"config": {"rank_pattern": {"key": 9}}}, "not supported here: rank_pattern"),
        ({"config": {"init_lora_weights": "pissa"}}, "weights that were changed"),
        ({"tensors": {A: torch.zeros(4, 47)}}, "has shape [4, 47]"),
        ({"tensors": {A: torch.full((4, 48), torch.nan)}}, "is no number"),
        ({"tensors": {A: torch.zeros(4, 48, dtype=torch.int64)}}, "is no number"),
        ({"tensors": {f"{PREFIX}blocks.9.time_mix.key.lora_A.weight": torch.zeros(4, 48),
                      f"{PREFIX}blocks.9.time_mix.key.lora_B.weight": torch.zeros(48, 4)}},
         "no adaptable layers of these names"),
        ({"tensors": {f"{PREFIX}blocks.0.norm.weight": torch.zeros(4)}}, "no part of lora"),
        ({"drop": (A,)}, "lacks lora_A.weight"),
    ],
)  # fmt: skip
def test_a_wrong_folder_is_refused_in_three_lines(change, message, tmp_path):
    folder, layers = broken(tmp_path, **change)
    with pytest.raises(CheckpointError) as raised:
        read_adapter(folder, layers)
    assert message in raised.value.what and len(raised.value.lines()) == 3


def test_the_unchanged_folder_is_accepted(tmp_path):
    assert read_adapter(*broken(tmp_path)).rank == 4


@pytest.mark.parametrize("text", ["{", "[1]", '{"r": ' + "9" * 5000 + "}", "[" * 100_000])
def test_a_configuration_that_is_none(text, tmp_path):
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(CheckpointError):
        read_adapter(tmp_path, {})


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(CheckpointError, match="no adapter of peft"):
        read_adapter(tmp_path, {})
    (tmp_path / CONFIG).write_text('{"peft_type": "LORA", "r": 4}')
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match="pickle"):
        read_adapter(tmp_path, {})
    (tmp_path / FILE).write_bytes(b"\x80\x04 not safetensors")
    with pytest.raises(CheckpointError, match="no safetensors"):
        read_adapter(tmp_path, {})


def test_an_adapter_of_another_base_is_refused(tmp_path):
    base, other = plain("rwkv7"), plain("rwkv7", seed=1)
    write_adapter(adapted(base, "rwkv7", seed=1).learned(), tmp_path / "adapter")
    for fields in ({"start": {"weights": str(tmp_path / "adapter")}},
                   {"adapters": {"calm": {"weights": str(tmp_path / "adapter")}}}):  # fmt: skip
        with pytest.raises(CheckpointError, match="another base"):
            adapted(other, "rwkv7", **fields)
        assert adapted(base, "rwkv7", **fields)
        # a quantised copy of the base is the same base
        assert adapted(base, "rwkv7", base_weights="nf4", **fields)


def test_a_start_of_another_kind_is_refused(tmp_path):
    base = plain("rwkv7")
    write_adapter(adapted(base, "rwkv7", seed=1, rank=2).learned(), tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="rank 2, this configuration 4"):
        started(base, "rwkv7", tmp_path / "adapter")


def test_the_mark_is_written(tmp_path):
    from safetensors import safe_open

    model = adapted(plain("rwkv7"), "rwkv7")
    write_adapter(model.learned(), tmp_path / "adapter")
    with safe_open(tmp_path / "adapter" / FILE, "pt") as file:
        assert file.metadata()[BASE] == model.mark() != ""


def test_nothing_is_overwritten(tmp_path):
    model = adapted(plain("rwkv7"), "rwkv7")
    write_adapter(model.learned(), tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="not overwritten"):
        write_adapter(model.learned(), tmp_path / "adapter")


def checkpoint(tmp_path, **fields):
    """A system's folder with an adapted small backbone, and its configuration."""
    from wishbone.core.system.build import build_model
    from wishbone.core.system.spec import read, resolve
    from wishbone.core.weights.checkpoint import save
    from wishbone.core.weights.provenance import provenance

    small = {"name": "rwkv7", "width": 64, "layers": 1, "head_size": 16, "ffn_width": 96}
    config = read("quickstart-rwkv7")
    backbone = {"name": "peft", "base": small, "rank": 2, **fields}
    config = resolve({k: v for k, v in config.items() if k != "weights"} | {"backbone": backbone})
    torch.manual_seed(0)
    model = build_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape)
    folder = save(tmp_path / "adapted", model, dict(config) | {"weights": "."}, provenance(config))
    return folder, model


def test_the_commands(tmp_path, capsys):
    from wishbone.core.cli.convert import main
    from wishbone.core.system.build import build_model
    from wishbone.core.system.spec import read

    folder, model = checkpoint(tmp_path)
    assert main(["merge", str(folder), str(tmp_path / "merged")]) == 0
    config = read(str(tmp_path / "merged"))
    assert config["backbone"]["name"] == "rwkv7"
    merged = build_model(config).eval()
    x = vectors(model.backbone)
    torch.testing.assert_close(answer(merged.backbone, x), answer(model.backbone, x))
    assert torch.equal(merged.tables["text"].weight, model.tables["text"].weight)
    assert "12 left out" in capsys.readouterr().out

    assert main(["peft", str(folder), str(tmp_path / "adapter"), "--out"]) == 0
    assert main(["peft-fla", str(folder), str(tmp_path / "fla"), "--out"]) == 0
    layers = model.backbone.layers
    one, two = (read_adapter(tmp_path / name, layers) for name in ("adapter", "fla"))
    for name, parts in model.backbone.learned().layers.items():
        for part, tensor in parts.items():
            assert torch.equal(one.layers[name][part], tensor)
            assert torch.equal(two.layers[name][part], tensor)
    with pytest.raises(UsageError):
        main(["peft", str(tmp_path / "adapter"), str(tmp_path / "ours")])
    from wishbone.core.contract.errors import CapabilityError

    with pytest.raises(CapabilityError, match="no names in qwen2"):
        main(["peft-qwen2", str(folder), str(tmp_path / "qwen2"), "--out"])
    with pytest.raises(CheckpointError, match="no adapters of this kind"):
        main(["merge", "quickstart-rwkv7", str(tmp_path / "nothing")])
