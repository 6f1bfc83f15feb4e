"""``wishbone stack-speed``: any mixer, also one that reads, any ffn, and systems."""

import pytest

from wishbone.core.registry.loader import registry
from wishbone.plugins.stack_speed.command import main


def table(capsys, *words):
    """Key -> parameters, train, step, ... of the command's rows."""
    sizes = ("--width", "64", "--layers", "1", "--length", "32", "--turns", "1")
    assert main([*words, *sizes]) == 0
    rows = capsys.readouterr().out.splitlines()[2:-1]
    return {row[:22].strip(): row[22:].split() for row in rows}


def test_rows_are_of_one_size_and_the_baseline_is_one(capsys):
    rows = table(capsys, "rwkv7", "cross_wkv", "attention")
    assert [*rows] == ["backbone rwkv7", "rwkv7", "cross_wkv", "attention"]
    assert rows["backbone rwkv7"][1:3] == ["1.00", "1.00"]
    counts = [int(row[0]) for row in rows.values()]
    assert max(counts) < 1.1 * min(counts)
    early, late = (int(number) for number in rows["attention"][-2:])
    assert late > 50 * early and rows["rwkv7"][-1] == rows["rwkv7"][-2]


def test_another_ffn_and_a_system(capsys):
    rows = table(capsys, "rwkv7", "tiny-unimatrix", "--ffn", "meta_state")
    cls = registry().get("backbone", "stack")
    config = cls.Config(width=64, layers=1, mixer="rwkv7", ffn="meta_state")
    assert int(rows["rwkv7"][0]) == cls.count_parameters(config)
    assert float(rows["tiny-unimatrix"][2]) > 1


def test_a_name_of_nothing_is_refused(capsys):
    with pytest.raises(Exception, match="nosuch"):
        main(["nosuch"])
