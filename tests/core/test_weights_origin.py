"""Where weights come from: what is recorded beside them, and what is read back of it."""

import hashlib
import json
import subprocess
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch

from wishbone.core.contract.errors import CapabilityError
from wishbone.core.weights import provenance as origin
from wishbone.core.weights.provenance import hash_files, provenance
from wishbone.core.weights.tensor_files import write_tensors
from wishbone.core.weights.training_record import (
    TrainingRecord,
    check_instruct,
    learned,
    provenance_entry,
)


def test_the_identity_of_a_corpus_is_of_names_and_contents_in_order(tmp_path):
    (tmp_path / "deep").mkdir()
    paths = [tmp_path / "b", tmp_path / "deep" / "a"]
    for path in paths:
        path.write_text(path.name)
    digests = {path.name: hashlib.sha256(path.name.encode()).hexdigest() for path in paths}
    text = "".join(f"{name}:{digests[name]}\n" for name in "ab")
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert hash_files(paths) == hash_files(map(str, reversed(paths))) == expected
    (tmp_path / "b").unlink()
    assert hash_files(paths, {tmp_path / "b": digests["b"]}) == expected


def test_the_folders_of_the_start_are_named_once(tmp_path):
    one, two, three = (str(tmp_path / name) for name in "abc")
    config = {
        "weights": one,
        "backbone": {"weights": "no", "base": {"base": {"weights": two}}},
        "head": {"weights": three},
    }
    assert origin.start_folders(config) == [Path(one), Path(two), Path(three)]
    assert origin.start_folders({"weights": one, "head": {"weights": one}}) == [Path(one)]
    assert origin.start_folders({"backbone": None, "head": None}) == []


def test_the_weights_of_the_start_are_all_of_their_files(tmp_path):
    (tmp_path / "deep").mkdir()
    files = [tmp_path / "b.safetensors", tmp_path / "deep" / "a.safetensors"]
    for number, file in enumerate(files):
        write_tensors(file, {"w": torch.full((1,), float(number))})
    (tmp_path / "other.bin").write_text("x")
    assert origin.start_weights({"weights": str(tmp_path)}) == hash_files(files)


def test_an_origin_says_what_ran_and_when(monkeypatch):
    monkeypatch.setattr(
        origin.time, "gmtime", lambda: origin.time.struct_time((2026, 3, 4, 5, 6, 7, 0, 0, 0))
    )
    monkeypatch.setattr(origin.sys, "argv", ["/bin/wishbone", "x"])
    monkeypatch.setattr(origin, "revision", lambda: "abc")
    said = provenance({"backbone": {"width": 3}, "head": 5, "layout": {"name": "cosyvoice2"}})
    assert said["made"] == "2026-03-04T05:06:07Z" and said["git"] == "abc"
    assert said["python"].count(".") == 2 and " " not in said["python"]
    assert (said["data"], said["seeds"], said["notes"]) == ("", {}, {})
    assert said["command"] == ["wishbone", "x"]
    assert said["distributions"].keys() == {"wishbone-tts", "torch", "numpy", "safetensors"}
    assert said["parts"].keys() == {"layout"}
    part = said["parts"]["layout"]
    assert part["api"] == f"{origin.API[0]}.{origin.API[1]}" and part["key"] == "cosyvoice2"


def test_a_record_of_trainings_begins_without_one(tmp_path):
    notes = {"steps": 2, "recipe": {}, "before": None}
    (tmp_path / "provenance.json").write_text(json.dumps({"notes": notes}))
    assert origin.trainings(tmp_path) == [{"data": None, "steps": 2, "recipe": {}}]
    for before in ([3], [{"steps": 1}], [{"recipe": 3}], "x"):
        text = json.dumps({"notes": {**notes, "before": before}})
        (tmp_path / "provenance.json").write_text(text)
        assert origin.trainings(tmp_path) == []
    (tmp_path / "provenance.json").write_bytes(b"\xff")
    assert origin.trainings(tmp_path) == []
    for notes in ([], {"steps": 1}, {"recipe": {}}, None):
        (tmp_path / "provenance.json").write_text(json.dumps({"notes": notes}))
        assert origin.trainings(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [OSError(), subprocess.TimeoutExpired("git", 10), subprocess.CalledProcessError(1, "git")],
)
def test_a_revision_that_git_does_not_tell_is_empty(monkeypatch, error):
    asked = []

    def fail(words, **options):
        asked.append((words, options))
        raise error

    monkeypatch.setattr(origin.subprocess, "run", fail)
    assert origin.revision() == ""
    ((words, options),) = asked
    assert words[:2] == ["git", "-C"] and (Path(words[2]) / "provenance.py").is_file()
    assert options["check"] is options["text"] is options["capture_output"] is True


def test_paths_in_a_command_are_told_without_their_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for argument, told in (
        ("plain", "plain"), ("a=b", "a=b"), ("a=b/c", "a=b/c"), ("/x/y", "y"), ("a=/x/y", "a=y"),
        ("a=b=/x/y", "a=b=y"), (f"a={tmp_path}/x/y", "a=x/y"), (f"{tmp_path}/x", "x"),
        (f"{tmp_path}x/y", "y"),
    ):  # fmt: skip
        assert origin._without_folders(argument) == told


@pytest.mark.parametrize(
    ("first", "later", "joined"),
    [
        ((None, None), (None, None), (None, None)), ((None, None), (True, ()), (True, ())),
        ((None, ("a",)), (False, ("b", "a")), (None, ("a", "b"))),
        ((False, ()), (False, None), (False, ())), ((True, None), (False, ("a",)), (True, ("a",))),
        ((False, None), (True, None), (True, None)),
    ],
)  # fmt: skip
def test_what_was_learned_once_is_not_lost(first, later, joined):
    assert TrainingRecord(*first).extended(TrainingRecord(*later)) == TrainingRecord(*joined)
    with pytest.raises(FrozenInstanceError):
        TrainingRecord().instruct = True


@pytest.mark.parametrize(
    ("notes", "record"),
    [
        ({"learned": {}}, (None, None)), ({"learned": {"dropped": []}}, (None, ())),
        ({"learned": {"instruct": False, "dropped": ["a"]}}, (False, ("a",))),
        ({"recipe": {}}, (False, ())), ({"recipe": {"weights": None}}, (False, ())),
        ({"recipe": {"weights": "x"}}, (None, ())),
        ({"recipe": 3}, (None, None)), ({}, (None, None)),
        ({"learned": 3, "recipe": {}}, (False, ())),
    ],
)  # fmt: skip
def test_a_record_is_read_or_judged_by_the_recipe(tmp_path, notes, record):
    (tmp_path / "provenance.json").write_text(json.dumps({"notes": notes}))
    assert learned({"weights": str(tmp_path)}) == TrainingRecord(*record)
    assert learned({"weights": ""}) == learned({}) == TrainingRecord()


def test_instructions_are_refused_only_where_none_was_ever_heard(tmp_path):
    for told, refused in ((False, True), (True, False), (None, False)):
        text = json.dumps({"notes": {"learned": {"instruct": told}}})
        (tmp_path / "provenance.json").write_text(text)
        if refused:
            with pytest.raises(CapabilityError, match="never heard an instruction"):
                check_instruct({"weights": str(tmp_path)})
        else:
            check_instruct({"weights": str(tmp_path)})
    entry = provenance_entry({"weights": str(tmp_path)}, False, ("x",))
    assert entry == {"instruct": None, "dropped": ("x",)}
