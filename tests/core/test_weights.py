"""Checkpoints: whole or not at all, every name accounted for, and where they came from."""

import json
import pickle
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.system.loading import load_part, load_tensors
from wishbone.core.weights import checkpoint, folders, foreign, training_record
from wishbone.core.weights import fingerprint as identity
from wishbone.core.weights import provenance as origin
from wishbone.core.weights.checkpoint import save
from wishbone.core.weights.provenance import hash_files, provenance
from wishbone.core.weights.tensor_files import (
    read_tensors,
    require_plausible,
    translate,
    write_tensors,
)


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))


CONFIG = {"backbone": {"name": "rwkv7", "width": 64}}


def test_a_checkpoint_is_a_folder_with_its_origin(tmp_path):
    model = small()
    origin = provenance(CONFIG, data="abc", seeds={"torch": 1}, notes={"steps": 3})
    folder = save(tmp_path / "run/last", model, CONFIG, origin)
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.yaml",
        "model.safetensors",
        "provenance.json",
    ]
    other = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    load_part(other, folder)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )
    said = json.loads((folder / "provenance.json").read_text())
    assert said["parts"]["backbone"]["distribution"] == "wishbone-tts"
    assert said["parts"]["backbone"]["target"].endswith(":RWKV7")
    assert (said["data"], said["seeds"], said["notes"]) == ("abc", {"torch": 1}, {"steps": 3})
    assert {"git", "command", "distributions", "made"} <= said.keys()


def test_provenance_names_no_folder_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        "/opt/bin/wishbone",
        "train",
        f"out={tmp_path}/runs/a",
        "/elsewhere/voice",
        "x=1",
        "b/c",
    ]
    monkeypatch.setattr("sys.argv", words)
    said = provenance(CONFIG)["command"]
    assert said == ["wishbone", "train", "out=runs/a", "voice", "x=1", "b/c"]


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, monkeypatch):
    folder = save(tmp_path / "last", small(), CONFIG, {})
    with pytest.raises(CheckpointError, match="exists"):
        save(folder, small(), CONFIG, {})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "write_tensors", fail)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path / "next", small(), CONFIG, {})
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_every_wrong_name_is_told_at_once():
    model = small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    tensors = {k: v + 1 for k, v in model.state_dict().items()}
    del tensors["0.bias"], tensors["1.bias"]
    tensors |= {"extra": torch.zeros(1), "0.weight": torch.zeros(3, 5)}
    with pytest.raises(CheckpointError) as caught:
        load_tensors(model, tensors, "some.safetensors")
    what = caught.value.what
    assert "2 missing: 0.bias, 1.bias" in what
    assert "1 unexpected: extra" in what
    assert "0.weight (file [3, 5], model [3, 2])" in what
    # and nothing was loaded
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_loading_keeps_the_dtype_of_the_model():
    model = small().bfloat16()
    load_tensors(model, small().state_dict())
    assert model[0].weight.dtype == torch.bfloat16


def test_shared_tensors_survive(tmp_path):
    model = small()
    model[1].weight = nn.Parameter(model[0].weight.detach().T.clone())
    tied = {"a": model[0].weight, "b": model[0].weight, "c": model[0].weight.T}
    write_tensors(tmp_path / "t.safetensors", tied)
    back = read_tensors(tmp_path / "t.safetensors")
    assert torch.equal(back["c"], back["a"].T)


def test_foreign_files_run_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"w": torch.ones(2), "more": Evil()}, tmp_path / "evil.pth")
    for name in ("evil.pt", "evil.pth"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_tensors(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "good.pth")
    assert torch.equal(read_tensors(tmp_path / "good.pth")["w"], torch.ones(2))
    torch.save({"w": torch.ones(2), "step": 3}, tmp_path / "mixed.pth")
    with pytest.raises(CheckpointError, match="step"):
        read_tensors(tmp_path / "mixed.pth")


TABLE = {"blocks.{}.att.{}.w": "layers.{}.a{}", "emb": "table", "junk.{}": None}


def test_translation_by_table():
    theirs = {
        "blocks.3.att.0.w": torch.tensor(1),
        "emb": torch.tensor(2),
        "junk.7": torch.tensor(3),
    }
    assert translate(theirs, TABLE).keys() == {"layers.3.a0", "table"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bloks.3.w": 1, "head.x": 1}, "does not know: bloks.3.w, head.x"),
        ({"emb": None}, "met no tensor: emb"),
        ({"blocks.3.att.0xw": 1}, "does not know: blocks.3.att.0xw"),
    ],
)
def test_translation_accounts_for_every_name(change, said):
    theirs = {"blocks.3.att.0.w": torch.tensor(1), "emb": torch.tensor(2)}
    for name, value in change.items():
        if value is None:
            del theirs[name]
        else:
            theirs[name] = torch.tensor(0)
    with pytest.raises(CheckpointError, match=said):
        translate(theirs, TABLE, "file.pth")


def test_two_names_cannot_become_one():
    theirs = {"a.1": torch.tensor(1), "b.1": torch.tensor(2)}
    with pytest.raises(CheckpointError, match="made twice: x.1"):
        translate(theirs, {"a.{}": "x.{}", "b.{}": "x.{}"})


def test_the_identity_of_a_corpus(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).write_text(name)
    both = hash_files([tmp_path / "b", tmp_path / "a"])
    assert both == hash_files([tmp_path / "a", tmp_path / "b"])
    (tmp_path / "a").write_text("c")
    assert both != hash_files([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_numbers_that_cannot_be_weights_are_refused(tmp_path, value, kind):
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {name: tensor.to(kind, copy=True) for name, tensor in before.items()}
    tensors["1.weight"][0, 1] = value
    write_tensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match="1 tensors hold numbers .*: 1.weight") as refused:
        load_part(model, tmp_path)
    assert refused.value.where == str(tmp_path / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_whole_numbers_are_no_weights():
    tensors = {name: tensor.int() for name, tensor in small().state_dict().items()}
    with pytest.raises(CheckpointError, match="4 of another type: 0.bias .file torch.int32"):
        load_tensors(small(), tensors)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("slot", ["model", "backbone"])
def test_names_of_compiled_and_parallel_models_are_read(tmp_path, wrapper, slot):
    part = small()
    prefix = wrapper + ("backbone." if slot == "backbone" else "")
    tensors = {prefix + name: tensor for name, tensor in part.state_dict().items()}
    write_tensors(tmp_path / "model.safetensors", tensors)
    other = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    load_part(other, tmp_path, slot)
    assert all(map(torch.equal, part.state_dict().values(), other.state_dict().values()))


def test_other_names_are_a_short_sentence():
    tensors = {f"model.x.{n}": torch.zeros(1) for n in range(500)}
    with pytest.raises(CheckpointError) as refused:
        load_tensors(small(), tensors)
    assert "every name begins with 'model.x.'" in refused.value.what
    assert "(492 more)" in refused.value.what and len(refused.value.what) < 400


def test_weights_in_several_files_with_a_list_are_read(tmp_path):
    model = small()
    tensors = sorted(model.state_dict().items())
    for number, some in enumerate((tensors[:1], tensors[1:])):
        write_tensors(tmp_path / f"model-{number}.safetensors", dict(some))
    places = {name: f"model-{int(name != tensors[0][0])}.safetensors" for name, _ in tensors}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    other = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    load_part(other, tmp_path)
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-1.safetensors, which is not here"):
        load_part(other, tmp_path)


def test_nothing_in_a_tensor_is_plausible_and_small_floats_are_looked_at():
    plain = {
        "empty": torch.zeros(0),
        "shape": torch.empty(3, device="meta"),
        "ids": torch.arange(3),
    }
    require_plausible(plain, "here")
    eight = torch.tensor([1.0, -2.0]).to(torch.float8_e4m3fn)
    require_plausible({"eight": eight}, "here")
    with pytest.raises(CheckpointError, match="1 tensors.*eight"):
        broken = torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)
        require_plausible({"eight": broken, "good": torch.ones(2)}, "here")


def test_a_revision_is_marked_where_the_code_was_changed(monkeypatch):
    answers = {"rev-parse": "abc123\n", "status": ""}

    def git(words, **_):
        return SimpleNamespace(stdout=answers[words[3]])

    monkeypatch.setattr(origin.subprocess, "run", git)
    assert origin.revision() == "abc123"
    answers["status"] = " M core/x.py\n"
    assert origin.revision() == "abc123 (changed)"

    def missing(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(origin.subprocess, "run", missing)
    assert origin.revision() == ""


def test_what_was_learned_is_read_from_the_origin_of_weights(tmp_path):
    (tmp_path / "provenance.json").write_text(
        json.dumps({"notes": {"learned": {"instruct": True, "dropped": ["speaker"]}}})
    )
    record = training_record.learned({"weights": str(tmp_path)})
    assert record == training_record.TrainingRecord(True, ("speaker",))
    (tmp_path / "provenance.json").write_text(json.dumps({"notes": None}))
    assert training_record.learned({"weights": str(tmp_path)}) == training_record.TrainingRecord()


def test_a_fingerprint_is_kept_until_a_tensor_is_changed(monkeypatch):
    hashed = []
    digest = identity._hash
    monkeypatch.setattr(identity, "_hash", lambda state: hashed.append(1) or digest(state))
    module = torch.nn.Linear(2, 2)
    first = identity.fingerprint(module)
    assert identity.fingerprint(module) == first and len(hashed) == 1
    with torch.no_grad():
        module.bias += 1
    assert identity.fingerprint(module) != first and len(hashed) == 2
    # tensors made for inference count no changes, so nothing is kept of them
    with torch.inference_mode():
        frozen = torch.nn.Linear(2, 2)
    identity.fingerprint(frozen)
    identity.fingerprint(frozen)
    assert len(hashed) == 4


def test_a_full_disk_is_the_error_of_the_system(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError) as caught:
        write_tensors(tmp_path / "w.safetensors", {"w": torch.ones(2)})
    assert caught.value.errno == 28 and caught.value.filename.endswith("w.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["", "[]", '{"notes": {}}', '{"notes": {"steps": 1, "recipe": 2}}']
)
def test_an_origin_that_notes_no_training_has_none(tmp_path, text):
    (tmp_path / "provenance.json").write_text(text)
    assert origin.trainings(tmp_path) == []
    assert origin.trainings(tmp_path / "nowhere") == []


def test_trainings_come_first_one_first(tmp_path):
    notes = {"steps": 2, "recipe": {"a": 1}, "before": [{"data": "x", "steps": 1, "recipe": {}}]}
    (tmp_path / "provenance.json").write_text(json.dumps({"notes": notes, "data": "y"}))
    assert [stage["data"] for stage in origin.trainings(tmp_path)] == ["x", "y"]


def test_the_largest_weight_that_is_one():
    require_plausible({"edges": torch.tensor([1e8, -1e8])}, "here")
    for beyond in (1.01e8, -1.01e8):
        with pytest.raises(CheckpointError, match="beyond 1e\\+08: edges"):
            require_plausible({"edges": torch.tensor([0.0, beyond])}, "here")


def test_the_revision_is_what_git_prints(tmp_path, monkeypatch):
    git = tmp_path / "git"
    git.write_text('#!/bin/sh\ncase "$3" in rev-parse) echo abc123 ;; *) echo " M x.py" ;; esac\n')
    git.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert origin.revision() == "abc123 (changed)"


def test_a_distribution_that_is_not_here_has_no_version():
    assert origin._version("torch")[0].isdigit()
    assert origin._version("no-such-distribution-at-all") == "not installed"


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b'{"notes": []}'])
def test_an_origin_that_cannot_be_read_records_nothing(tmp_path, text):
    (tmp_path / "provenance.json").write_bytes(text)
    empty = training_record.TrainingRecord()
    assert training_record.learned({"weights": str(tmp_path)}) == empty
    assert training_record.learned({"weights": str(tmp_path / "nowhere")}) == empty


@pytest.mark.parametrize(
    ("before", "instruct"),
    [({}, False), ({"backbone": {}, "head": None}, False), ({"weights": "nowhere"}, None),
     ({"backbone": {"weights": "nowhere"}}, None), ({"head": {"weights": "nowhere"}}, None)],
)  # fmt: skip
def test_only_of_weights_that_begin_untrained_it_is_known_what_they_never_heard(before, instruct):
    entry = training_record.provenance_entry(before, False, ("speaker",))
    assert entry == {"instruct": instruct, "dropped": ("speaker",)}
    assert training_record.provenance_entry(before, True, ())["instruct"] is True


def test_a_list_that_cannot_be_read_is_a_damaged_checkpoint(tmp_path, monkeypatch):
    index = tmp_path / "model.safetensors.index.json"
    for text in ("{", "[]", "{}", '{"weight_map": 3}'):
        index.write_text(text)
        with pytest.raises(CheckpointError, match="list of files cannot be read"):
            folders.files(tmp_path)

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folders.Path, "read_text", refused)
    with pytest.raises(CheckpointError, match="Permission denied") as caught:
        folders.files(tmp_path)
    assert caught.value.where == str(index)


def test_a_folder_without_weights_names_what_was_looked_for(tmp_path):
    with pytest.raises(CheckpointError, match="neither model.safetensors nor pytorch_model.bin"):
        folders.read_folder(tmp_path)


@pytest.mark.parametrize("count", [6, 7])
def test_a_list_of_names_is_cut_after_six(count):
    module = nn.ParameterDict({f"p{n}": nn.Parameter(torch.zeros(1)) for n in range(count)})
    with pytest.raises(CheckpointError) as caught:
        foreign.check(module, {}, "here")
    names = ", ".join(f"p{n}" for n in range(6)) + (", ..." if count > 6 else "")
    assert f"{count} tensors are missing: {names}." in caught.value.what


def test_the_weights_at_the_start_are_named_by_their_contents(tmp_path):
    assert origin.start_weights({}) == origin.start_weights({"weights": str(tmp_path)}) == ""
    file = tmp_path / "model.safetensors"
    write_tensors(file, {"w": torch.ones(2)})
    assert origin.start_weights({"backbone": {"weights": str(tmp_path)}}) == hash_files([file])
