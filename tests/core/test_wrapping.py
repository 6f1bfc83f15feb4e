"""A backbone around a backbone: building, loading a plain base's weights, training the rest."""

import json

import pytest
import torch
import wrapped_toys
from tiny_corpus import write_recipe
from two_processes import losses, together

from wishbone.core.contract.errors import CheckpointError, ConfigError
from wishbone.core.model import wrapper
from wishbone.core.system.build import build_model
from wishbone.core.system.loading import load_tensors
from wishbone.core.system.spec import read, require
from wishbone.core.testing import check_class
from wishbone.core.weights.tensor_files import read_tensors, write_tensors

BASE = {"name": "rwkv7", "width": 32, "layers": 2, "head_size": 16}
TILTED = {"name": wrapped_toys.KEY, "base": BASE}
TWICE = {"name": wrapped_toys.KEY, "base": TILTED}


@pytest.fixture(autouse=True)
def known():
    wrapped_toys.register()
    yield
    wrapped_toys.forget()


def system(backbone, **other):
    """A resolved system around ``backbone``, small."""
    from wishbone.core.config.compose import Config, compose
    from wishbone.core.system.spec import resolve

    return resolve(
        Config({**compose("quickstart"), "weights": None, "backbone": backbone, **other})
    )


def model(backbone, **other):
    return build_model(system(backbone, **other))


def test_a_wrapped_backbone_keeps_the_contract():
    config = wrapped_toys.Tilted.Config(base=dict(BASE), tilt=0.1)
    results = check_class("backbone", wrapped_toys.Tilted, config)
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []


def test_a_resolved_system_holds_every_field_of_the_base():
    resolved = system(TILTED)["backbone"]
    assert resolved["base"]["layers"] == 2 and resolved["base"]["dropout"] == 0.0
    assert system(resolved)["backbone"] == resolved
    require({"backbone": resolved}, "a test", "constant_state")


@pytest.mark.parametrize(
    ("base", "word"),
    [({}, "does not say"), ({"name": "rwkv7", "widht": 3}, "width"), ({"name": "no"}, "no")],
)
def test_a_base_is_checked_like_a_slot(base, word):
    with pytest.raises(ConfigError) as error:
        system({"name": wrapped_toys.KEY, "base": base})
    assert word in "\n".join(error.value.lines())


def test_the_place_of_a_mistake_in_a_base_is_told(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(
        "base: quickstart\nbackbone:\n  name: testing/tilted\n"
        "  base:\n    name: rwkv7\n    widht: 32\n"
    )
    with pytest.raises(ConfigError) as error:
        read(path)
    assert "one.yaml:6" in "\n".join(error.value.lines())


@pytest.mark.parametrize(("backbone", "prefix"), [(TILTED, "base."), (TWICE, "base.base.")])
def test_weights_of_the_plain_system_load_and_the_wrapper_begins(tmp_path, backbone, prefix):
    plain = model(BASE)
    (tmp_path / "plain").mkdir()
    write_tensors(tmp_path / "plain" / "model.safetensors", plain)
    wrapped = model(backbone, weights=str(tmp_path / "plain"))
    for name, tensor in plain.backbone.state_dict().items():
        assert torch.equal(wrapped.backbone.state_dict()[prefix + name], tensor), name
    assert torch.equal(plain.head.table.weight, wrapped.head.table.weight)
    first = plain.backbone.state_dict()["blocks.0.channel_mix.key.weight"].flatten()[:32]
    assert torch.equal(wrapped.backbone.row, first)


def test_weights_of_a_wrapper_load_into_one_around_it(tmp_path):
    inner = model(TILTED)
    with torch.no_grad():
        inner.backbone.row.fill_(0.5)
    outer = model(TWICE)
    load_tensors(outer, inner.state_dict())
    assert outer.backbone.base.row.eq(0.5).all() and not outer.backbone.row.eq(0.5).any()


def test_a_wrapper_that_says_so_does_not_begin_without_its_own_weights():
    with pytest.raises(CheckpointError, match="missing: backbone.base."):
        load_tensors(model({"name": "testing/strict", "base": BASE}), model(BASE).state_dict())


def test_weights_of_another_base_are_refused_and_change_nothing():
    wrapped, other = model(TILTED), model({**BASE, "layers": 1})
    before = {name: tensor.clone() for name, tensor in wrapped.state_dict().items()}
    with pytest.raises(CheckpointError, match="missing"):
        load_tensors(wrapped, other.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in wrapped.state_dict().items())


def test_a_file_with_the_wrappers_own_alone_is_joined_by_the_base(tmp_path):
    wrapped = model(TILTED)
    with torch.no_grad():
        wrapped.backbone.row.fill_(0.25)
    (tmp_path / "base").mkdir()
    (tmp_path / "own").mkdir()
    state = wrapped.state_dict()
    inside = {n.replace("backbone.base.", "backbone."): t for n, t in state.items()}
    inside.pop("backbone.row")
    write_tensors(tmp_path / "base" / "model.safetensors", inside)
    own = {n: t for n, t in state.items() if not n.startswith("backbone.base.")}
    write_tensors(tmp_path / "own" / "model.safetensors", own)
    backbone = {**TILTED, "base": {**BASE, "weights": str(tmp_path / "base")}}
    again = model(backbone, weights=str(tmp_path / "own"))
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    # with neither file of its own, it begins on the base
    fresh = model(backbone)
    assert (
        torch.equal(fresh.backbone.base.norm_in.weight, wrapped.backbone.base.norm_in.weight)
        and not fresh.backbone.row.eq(0.25).any()
    )
    with pytest.raises(CheckpointError, match="missing"):
        model(TILTED, weights=str(tmp_path / "own"))


def write_wrapped(folder):
    """A recipe that trains a wrapper's own parameters, head and tables."""
    pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
    path = write_recipe(folder)
    lines = path.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if "backbone:" in line)
    lines[first : first + 2] = [f"  backbone: {json.dumps(TILTED)}"]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_frozen_parameters_stay_and_are_kept_once(tmp_path):
    from wishbone.core.cli.train import main

    recipe = str(write_wrapped(tmp_path))
    assert main([recipe, "freeze=[tables.text]"]) == 0
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    export = read_tensors(tmp_path / "run" / "export" / "model.safetensors")
    torch.manual_seed(1)
    before = build_model(read_recipe_of(recipe)).state_dict()
    frozen = {n for n in before if ".base." in n} | {"tables.text.weight"}
    for name, tensor in before.items():
        assert torch.equal(tensor, export[name]) == (name in frozen), name
    average = read_tensors(newest / "average.safetensors")
    remembered = read_tensors(newest / "optimizer.safetensors")
    assert average.keys() == before.keys() - frozen
    assert {name.partition("/")[2] for name in remembered} == before.keys() - frozen
    notes = json.loads((tmp_path / "run" / "export" / "provenance.json").read_text())["notes"]
    assert notes["trained_parameters"] == sum(before[n].numel() for n in before.keys() - frozen)


def read_recipe_of(path):
    from wishbone.core.train.recipe import read_recipe

    return read_recipe(path)[1]


def test_a_killed_run_with_a_frozen_base_goes_on_exactly(tmp_path, monkeypatch):
    from wishbone.core.cli.train import main
    from wishbone.core.train import loop

    recipe = str(write_wrapped(tmp_path))
    assert main([recipe, f"out={tmp_path}/whole"]) == 0
    whole, step = loop.Trainer._train_step, 5

    def fatal(self):
        if self.step == step:
            raise KeyboardInterrupt
        whole(self)

    monkeypatch.setattr(loop.Trainer, "_train_step", fatal)
    with pytest.raises(KeyboardInterrupt):
        main([recipe, f"out={tmp_path}/cut"])
    monkeypatch.setattr(loop.Trainer, "_train_step", whole)
    assert main([recipe, f"out={tmp_path}/cut"]) == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    ours, theirs = (
        read_tensors(tmp_path / name / "export" / "model.safetensors") for name in ("cut", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("freeze", "word"), [("[nothing]", "nothing"), ("[backbone,head,tables]", "Everything")]
)
def test_freezing_what_is_not_there_or_all_there_is_refused(tmp_path, freeze, word):
    from wishbone.core.cli.train import main

    with pytest.raises(ConfigError, match=word):
        main([str(write_wrapped(tmp_path)), f"freeze={freeze}"])


PISSA = {"name": "pissa", "rank": 3, "base": BASE}
"""Frozen and trained parameters in one layer."""


@pytest.mark.timeout(600)
def test_sharing_out_a_frozen_base_changes_nothing(tmp_path):
    from wishbone.core.cli.train import main

    recipe = str(write_wrapped(tmp_path))
    commands = {
        name: [recipe, f"out={tmp_path}/{name}", f"system.backbone={json.dumps(backbone)}"]
        for name, backbone in (("tilted", TILTED), ("pissa", PISSA))
    }
    said = together(
        *([*words, "shard=full"] for words in commands.values()),
        prepare=wrapped_toys.register,
        limit=400,
    )
    assert said == ["", ""], said
    for name, words in commands.items():
        assert main([*words, f"out={tmp_path}/{name}-one", "batch_positions=800"]) == 0
        pairs = zip(losses(tmp_path / name), losses(tmp_path / f"{name}-one"), strict=True)
        for two, one in pairs:
            assert two[0] == one[0] and two[1] == pytest.approx(one[1], rel=1e-5)
        ours, theirs = (
            read_tensors(tmp_path / run / "export" / "model.safetensors")
            for run in (name, f"{name}-one")
        )
        for tensor_name, tensor in theirs.items():
            trained = ".base." not in tensor_name or tensor_name.endswith((".A", ".B"))
            tolerance = 1e-4 if trained else 0
            assert torch.allclose(ours[tensor_name], tensor, rtol=0, atol=tolerance), tensor_name


def test_what_is_left_of_groups_is_what_is_trained():
    backbone = wrapper.build_base(TILTED)
    (group,) = backbone.parameter_groups(1e-3, 0.1)
    assert group["params"] == [backbone.row] and group["weight_decay"] == 0.0
