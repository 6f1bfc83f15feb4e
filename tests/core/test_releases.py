"""Folders that others published: found by a plug-in's reader, or left alone."""

import pytest
import torch
from torch import nn

from wishbone.core.contract.errors import CheckpointError, PluginBroken
from wishbone.core.contract.extensions.release import Found, ReleaseReader
from wishbone.core.speak.voice import release_voices
from wishbone.core.system.loading import load_part
from wishbone.core.weights import releases

NOTE = "one part has no weights"


class Reader(ReleaseReader):
    """Knows folders with a file called ours."""

    def holds(self, folder):
        return (folder / "ours").is_file()

    def language_model(self, folder, model):
        return Found({"weight": torch.ones(2, 2), "bias": torch.zeros(2)}, NOTE)

    def voices(self, folder):
        return {"someone": folder.name}


class Codec(nn.Linear):
    def load_release(self, folder):
        self.read = folder


@pytest.fixture
def folder(tmp_path, register):
    register("release", "x", f"{__name__}:Reader")
    (tmp_path / "ours").write_text("")
    return tmp_path


def test_a_reader_fills_the_language_model_and_leaves_a_note(folder):
    model = nn.Linear(2, 2)
    assert load_part(model, folder) == NOTE
    assert torch.equal(model.weight, torch.ones(2, 2))


def test_a_part_reads_its_own_files(folder):
    codec = Codec(2, 2)
    assert load_part(codec, folder, "decoder") == "" and codec.read == folder


def test_a_part_that_knows_no_release_needs_weights_of_ours(folder):
    with pytest.raises(CheckpointError, match="no file of weights"):
        load_part(nn.Linear(2, 2), folder, "decoder")


def test_our_own_weights_come_first(folder):
    from wishbone.core.weights.tensor_files import write_tensors

    write_tensors(folder / "model.safetensors", nn.Linear(2, 2))
    model = nn.Linear(2, 2)
    assert load_part(model, folder) == "" and not torch.equal(model.weight, torch.ones(2, 2))


def test_voices_of_a_release(folder, tmp_path_factory):
    assert release_voices(folder) == {"someone": folder.name}
    assert release_voices(tmp_path_factory.mktemp("other")) == {}
    assert releases.find_reader(folder / "nowhere").entry is None


class Raising(Reader):
    """Raises for every folder it is asked about."""

    def holds(self, folder):
        raise RuntimeError("cannot look")


class Halting(Reader):
    """Knows its folder and cannot read it."""

    def holds(self, folder):
        return (folder / "halting").is_file()

    def language_model(self, folder, model):
        raise KeyError("lost")

    def voices(self, folder):
        raise KeyError("no voice")


BROKEN = {"acme/gone": "nowhere.at.all:Reader", "acme/raising": f"{__name__}:Raising"}


@pytest.mark.parametrize("key", BROKEN)
def test_a_broken_reader_is_passed_over_where_another_knows_the_folder(key, tmp_path, register):
    register("release", key, BROKEN[key], "wishbone-acme")
    register("release", "x", f"{__name__}:Reader")  # asked after the broken one
    (tmp_path / "ours").write_text("")
    assert load_part(nn.Linear(2, 2), tmp_path) == NOTE
    assert release_voices(tmp_path) == {"someone": tmp_path.name}


@pytest.mark.parametrize("key", BROKEN)
def test_a_broken_reader_is_named_where_nobody_knows_the_folder(key, tmp_path, register):
    register("release", key, BROKEN[key], "wishbone-acme")
    assert release_voices(tmp_path) == {}
    with pytest.raises(PluginBroken, match=key) as caught:
        load_part(nn.Linear(2, 2), tmp_path)
    assert "wishbone-acme 0.2" in caught.value.where


def test_a_reader_that_fails_on_its_own_folder_is_named(tmp_path, register):
    register("release", "acme/halting", f"{__name__}:Halting", "wishbone-acme")
    (tmp_path / "halting").write_text("")
    for use in (lambda: load_part(nn.Linear(2, 2), tmp_path), lambda: release_voices(tmp_path)):
        with pytest.raises(PluginBroken, match="KeyError") as caught:
            use()
        assert "wishbone-acme 0.2" in caught.value.where
