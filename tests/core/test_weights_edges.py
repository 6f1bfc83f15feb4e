"""Weights at their edges: names in several files, prefixes, hashes, and what errors say."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.weights import checkpoint, folders, foreign, releases, tensor_files
from wishbone.core.weights import fingerprint as identity
from wishbone.core.weights.checkpoint import save
from wishbone.core.weights.folders import part_tensors, read_folder
from wishbone.core.weights.tensor_files import (
    listed,
    read_tensors,
    translate,
    unwrapped,
    write_tensors,
)


def numbered(*names):
    return {name: torch.full((2,), float(n)) for n, name in enumerate(names)}


def several(folder, files, name="model.safetensors"):
    """Write files of tensors and the list of them."""
    places = {}
    for file, tensors in files.items():
        write_tensors(folder / file, tensors)
        places |= {key: file for key in tensors}
    (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize(("count", "more"), [(1, 0), (8, 0), (9, 1), (12, 4)])
def test_eight_names_are_listed_and_the_others_counted(count, more):
    names = [f"n{n}" for n in range(count)]
    text = ", ".join(names[:8]) + (f", ... ({more} more)" if more else "")
    assert listed(names) == text


def test_only_what_all_names_begin_with_is_left_out():
    module = numbered("module.a", "module.b")
    assert unwrapped(module).keys() == {"a", "b"}
    assert unwrapped(numbered("module._orig_mod.module.a")).keys() == {"a"}
    mixed = numbered("module.a", "b")
    assert unwrapped(mixed) == mixed and unwrapped({}) == {}
    assert unwrapped(numbered("a.module.b")).keys() == {"a.module.b"}


def test_a_tensor_is_written_as_it_looks_wherever_it_lies(tmp_path):
    base = torch.arange(12.0).view(3, 4).requires_grad_()
    write_tensors(tmp_path / "w.safetensors", {"t": base.T, "part": base[1:, ::2]})
    back = read_tensors(tmp_path / "w.safetensors")
    assert torch.equal(back["t"], base.detach().T) and back["t"].is_contiguous()
    assert torch.equal(back["part"], base.detach()[1:, ::2])
    write_tensors(tmp_path / "m.safetensors", nn.Linear(2, 3))
    assert read_tensors(tmp_path / "m.safetensors").keys() == {"weight", "bias"}
    header = (tmp_path / "m.safetensors").read_bytes()[:200]
    assert b'"format":"pt"' in header


def test_an_error_of_the_library_that_is_not_the_systems_stays_what_it_is(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise SafetensorError("the header is too large")

    monkeypatch.setattr("safetensors.torch.save_file", refuse)
    with pytest.raises(SafetensorError, match="too large"):
        write_tensors(tmp_path / "w.safetensors", {"w": torch.ones(2)})
    found = tensor_files._system_error(Exception("(os error 13)"), Path("x"))
    assert (found.errno, found.strerror, found.filename) == (13, "Permission denied", "x")


def test_a_file_that_is_not_there_or_is_none_names_itself(tmp_path):
    with pytest.raises(CheckpointError, match="no file of weights") as caught:
        read_tensors(tmp_path / "nothing.pt")
    assert caught.value.where == str(tmp_path / "nothing.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="cannot be read as weights") as caught:
        read_tensors(tmp_path / "broken.safetensors")
    assert caught.value.where == str(tmp_path / "broken.safetensors")


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        ({"a": torch.ones(1)}, {"a"}), ({"model": {"a": torch.ones(1)}}, {"a"}),
        ({"state_dict": {"model": {"a": torch.ones(1)}}, "step": 3}, {"a"}),
        ({"model": torch.ones(1)}, {"model"}), ({1: torch.ones(1)}, {"1"}),
        ({"state_dict": torch.ones(1), "b": torch.ones(1)}, {"state_dict", "b"}),
    ],
)  # fmt: skip
def test_the_table_of_a_foreign_file_may_lie_deeper(tmp_path, value, keys):
    torch.save(value, tmp_path / "w.pt")
    assert read_tensors(tmp_path / "w.pt").keys() == keys


@pytest.mark.parametrize(
    ("value", "other"),
    [
        ([torch.ones(1)], "nothing"), ({}, "nothing"), ({"model": {}}, "nothing"),
        ({"b": 1, "a": 2, "w": torch.ones(1)}, "a, b"), ({3: "x"}, "3"),
    ],
)  # fmt: skip
def test_what_else_a_foreign_file_holds_is_named(tmp_path, value, other):
    torch.save(value, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=f"it also holds: {other}\\.") as caught:
        read_tensors(tmp_path / "w.pt")
    assert caught.value.where == str(tmp_path / "w.pt")


def test_a_translation_tells_all_that_is_wrong_and_leaves_out_what_it_may():
    table = {"a.{}": "x.{}", "b": "x.1", "c": None, "d": "y", "e": None}
    with pytest.raises(CheckpointError) as caught:
        translate(numbered("a.1", "b", "c", "g", "f"), table, "file.pth")
    assert caught.value.where == "file.pth"
    assert caught.value.what == (
        "The weights do not translate: names the table does not know: f, g;"
        " entries of the table that met no tensor: d; names made twice: x.1."
    )
    done = translate(numbered("a.12", "d", "c"), {**table, "b": None})
    assert {name: float(tensor[0]) for name, tensor in done.items()} == {"x.12": 0.0, "y": 1.0}
    # the first pattern that fits is taken, and {} is a whole number
    with pytest.raises(CheckpointError, match="does not know: a.1x"):
        translate(numbered("a.1x", "d"), {"a.{}": None, "d": "y"})


PARTS = [
    (numbered("backbone.w", "head.w", "tables.text"), "backbone", {"w": 0.0}),
    (numbered("backbone.w", "head.w", "tables.text"), "head", {"w": 1.0}),
    (numbered("tokenizer.w", "decoder.w"), "speech_tokenizer", {"w": 0.0}),
    (numbered("decoder.w", "speech_tokenizer.w"), "speech_tokenizer", {"w": 1.0}),
    (numbered("module.decoder.w", "module.x"), "decoder", {"w": 0.0}),
    (numbered("w", "x"), "backbone", {"w": 0.0, "x": 1.0}),
    (numbered("module.w", "module.x"), "decoder", {"module.w": 0.0, "module.x": 1.0}),
    (numbered("head.w"), "backbone", {"head.w": 0.0}),
    (numbered("module.tables.text"), "model", {"tables.text": 0.0}),
]


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize(("tensors", "slot", "expected"), PARTS)
def test_a_part_takes_the_names_that_are_its_own(tmp_path, tensors, slot, expected, spread):
    if spread:
        first = dict(list(tensors.items())[:1])
        rest = {name: tensor for name, tensor in tensors.items() if name not in first}
        several(tmp_path, {"1.safetensors": first, **({"2.safetensors": rest} if rest else {})})
    else:
        write_tensors(tmp_path / "model.safetensors", tensors)
    found, path = part_tensors(tmp_path, slot)
    assert {name: float(tensor[0]) for name, tensor in found.items()} == expected
    assert path == tmp_path / ("model.safetensors" + spread * ".index.json")


def test_a_file_of_the_slot_comes_first_and_is_taken_as_it_is(tmp_path):
    write_tensors(tmp_path / "model.safetensors", numbered("backbone.w"))
    write_tensors(tmp_path / "backbone.safetensors", numbered("backbone.v", "x"))
    found, path = part_tensors(tmp_path, "backbone")
    assert found.keys() == {"backbone.v", "x"} and path == tmp_path / "backbone.safetensors"
    assert part_tensors(str(tmp_path), "head")[1] == tmp_path / "model.safetensors"


def test_one_file_comes_before_a_list_of_several(tmp_path):
    several(tmp_path, {"1.safetensors": numbered("a")})
    write_tensors(tmp_path / "model.safetensors", numbered("b"))
    assert part_tensors(tmp_path, "head")[0].keys() == {"b"}
    assert folders.files(tmp_path) == [tmp_path / "model.safetensors"]
    (tmp_path / "model.safetensors").unlink()
    assert folders.files(str(tmp_path)) == [tmp_path / "1.safetensors"]
    torch.save(numbered("c"), tmp_path / "pytorch_model.bin")
    assert folders.files(tmp_path) == [tmp_path / "1.safetensors"]
    (tmp_path / "model.safetensors.index.json").unlink()
    assert folders.files(tmp_path) == [tmp_path / "pytorch_model.bin"]
    assert read_folder(tmp_path).keys() == {"c"}
    (tmp_path / "pytorch_model.bin").unlink()
    assert folders.files(tmp_path) == []


def test_a_folder_is_read_from_all_of_its_files_and_a_file_from_itself(tmp_path):
    several(tmp_path, {"1.safetensors": numbered("a"), "2.safetensors": numbered("b", "c")})
    assert read_folder(str(tmp_path)).keys() == {"a", "b", "c"}
    assert read_folder(tmp_path / "2.safetensors").keys() == {"b", "c"}


def test_a_name_in_two_files_is_a_damaged_folder(tmp_path):
    names = ("d", "c", "b", "a", "e")
    several(tmp_path, {"1.safetensors": numbered(*names), "2.safetensors": numbered("x")})
    write_tensors(tmp_path / "2.safetensors", numbered("x", *names[:4]))
    with pytest.raises(CheckpointError) as caught:
        read_folder(tmp_path)
    assert caught.value.what == "Two files have a, b, c."
    assert caught.value.where == str(tmp_path / "2.safetensors")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["../x", "a/b", "/c", "d/.."], "../x, /c, a/b, which is outside its folder."),
        (["4", "3", "2", "1"], "1, 2, 3, which is not here."),
        (["1", "../x"], "../x, which is outside its folder."),
    ],
)
def test_a_list_that_names_what_is_not_beside_it_is_refused(tmp_path, names, said):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"t{n}": name for n, name in enumerate(names)}}))
    with pytest.raises(CheckpointError) as caught:
        read_folder(tmp_path)
    assert caught.value.what == f"The list names {said}" and caught.value.where == str(index)


def test_names_that_share_a_tensor_share_it_in_a_pickle_too(tmp_path):
    whole = torch.arange(6.0)
    tensors = {"a": whole, "b": whole, "part": whole[:2], "later": whole[2:], "t": whole.view(2, 3)}
    foreign.write_pickle(tmp_path / "w.pt", tensors)
    back = torch.load(tmp_path / "w.pt", weights_only=True)
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    assert back["a"].data_ptr() == back["b"].data_ptr() != back["part"].data_ptr()
    assert back["part"].untyped_storage().nbytes() == 8
    assert len({back[name].data_ptr() for name in tensors}) == 4


def test_weights_that_make_no_model_are_told_completely():
    module = nn.Linear(2, 3)
    wrong = {"weight": torch.zeros(3, 3), "more": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        foreign.check(module, wrong, "here")
    assert caught.value.where == "here" and caught.value.what == (
        "The weights do not make one Linear: 1 tensors are missing: bias; 1 tensors mean nothing"
        " here: more; 1 tensors have another shape than the rest of the model:"
        " weight [3, 3], not [3, 2]."
    )
    foreign.check(module, module.state_dict(), "here")


def test_a_hash_of_weights_tells_names_types_shapes_and_numbers_apart():
    def told(tensor, name="w"):
        module = nn.Module()
        module.register_buffer(name, tensor)
        return identity.fingerprint(module)

    base = torch.arange(4.0)
    others = [
        told(base), told(base, "v"), told(base.double()), told(base.view(2, 2)), told(base + 1),
        told(torch.zeros(4)),
    ]  # fmt: skip
    assert len(set(others)) == 6 and {len(each) for each in others} == {16}
    assert told(base.clone()) == others[0] and told(base.view(2, 2).T.contiguous().T) == others[3]
    expected = hashlib.sha256(b"w torch.float32 (4,) " + base.numpy().tobytes()).hexdigest()
    assert others[0] == expected[:16]


def test_a_hash_is_made_again_where_a_tensor_is_replaced(monkeypatch):
    hashed, real = [], identity._hash
    monkeypatch.setattr(identity, "_hash", lambda state: hashed.append(1) or real(state))
    module = nn.Linear(2, 2)
    first = identity.fingerprint(module)
    module.weight = nn.Parameter(module.weight.detach() + 1)
    second = identity.fingerprint(module)
    assert second != first and identity.fingerprint(module) == second and len(hashed) == 2


def test_only_a_folder_may_be_a_release(tmp_path, monkeypatch):
    asked = []
    found = SimpleNamespace(key="x")

    def search(kind, question):
        asked.append((kind, question(SimpleNamespace(holds=lambda folder: folder == tmp_path))))
        return found

    monkeypatch.setattr(releases, "search", search)
    nothing = releases.find_reader(tmp_path / "nothing")
    assert nothing is not found and asked == []
    assert releases.find_reader(str(tmp_path)) is found and asked == [("release", True)]


def test_a_checkpoint_is_written_as_people_read_it(tmp_path):
    folder = save(tmp_path / "a", nn.Linear(1, 1), {"x": {"z": 1}}, {"é": 1, "at": Path("p")})
    text = (folder / "provenance.json").read_text(encoding="utf-8")
    assert text == '{\n  "é": 1,\n  "at": "p"\n}\n'
    assert (folder / "config.yaml").read_text() == "x:\n  z: 1\n"
    with pytest.raises(CheckpointError, match="exists already") as caught:
        checkpoint.save(str(folder), {}, {}, {})
    assert caught.value.where == str(folder)
