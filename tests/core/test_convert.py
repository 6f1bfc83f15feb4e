"""``wishbone convert``: finds converters through plug-ins and overwrites nothing."""

import pytest
import torch

from wishbone.core.cli import main
from wishbone.core.contract.extensions.converter import Converted, Converter
from wishbone.core.registry.loader import registry


class Plain(Converter):
    """A file of one tensor."""

    slot = "head"

    def read(self, source):
        return Converted(
            "head", {"name": "linear"}, {"table.weight": torch.ones(2, 3)},
            account={"w": "table.weight", "step": "left out: a counter"},
        )  # fmt: skip


class Raising(Converter):
    """Cannot read anything."""

    slot = "head"

    def read(self, source):
        raise RuntimeError("torn")


class Nothing(Raising):
    """Forgets to answer."""

    def read(self, source):
        return None


@pytest.fixture
def known(register):
    register("converter", "plain", f"{__name__}:Plain")
    register("converter", "gone", "no_such_module:X", "wishbone-acme")
    register("converter", "acme/raising", f"{__name__}:Raising", "wishbone-acme")
    register("converter", "acme/nothing", f"{__name__}:Nothing", "wishbone-acme")


def test_built_in_formats_are_found():
    assert {"rwkv-lm", "fla"} <= set(registry().names("converter"))


def test_a_file_comes_in_as_a_checkpoint(known, tmp_path, capsys):
    folder = tmp_path / "new"
    assert main.main(["convert", "plain", "theirs.bin", str(folder)]) == 0
    assert "2 names: 1 in" in capsys.readouterr().out
    assert {p.name for p in folder.iterdir()} == {
        "model.safetensors", "config.yaml", "provenance.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["plian", "a", "b"], 2, "Did you mean 'plain'"),
        (["gone", "a", "b"], 3, "no_such_module"),
        (["acme/raising", "a", "b"], 3, "wishbone-acme 0.2"),
        (["acme/raising", "a", "b"], 3, "RuntimeError: torn"),
        (["acme/nothing", "a", "b"], 3, "not a Converted"),
        (["plain", "a", "."], 5, "not overwritten"),
    ],
)
def test_what_goes_wrong_is_said_in_three_lines(known, words, code, said, capsys):
    assert main.main(["convert", *words]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert said in "\n".join(lines)


def test_one_way_formats_say_so(known, tmp_path, capsys):
    folder = str(tmp_path / "new")
    assert main.main(["convert", "plain", "theirs.bin", folder]) == 0
    assert main.main(["convert", "plain", folder, str(tmp_path / "back"), "--out"]) == 2
    assert "one direction only" in capsys.readouterr().err
