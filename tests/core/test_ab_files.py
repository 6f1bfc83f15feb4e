"""The file of an A/B: its mistakes, its engine, and what makes two runs the same."""

import pytest
from test_ab_parts import plan

from wishbone.core.contract.errors import ConfigError, UsageError
from wishbone.core.evaluate.experiment import config_diff
from wishbone.core.evaluate.experiment.plan import read_plan


def write(tmp_path, text):
    path = tmp_path / "try.yaml"
    path.write_text(text)
    return path


def test_mistakes_in_the_file_are_named(tmp_path):
    for text, said in (
        ("arms: {a: quickstart-rwkv7}", "at least two arms"),
        ("arms: {a: {sytem: x}, b: quickstart-rwkv7}", "which system"),
        ("arms: {a: quickstart-rwkv7, b: quickstart-rwkv7}\nlimits: 3", "limits"),
        ("arms: {a: quickstart-rwkv7, b: quickstart-rwkv7}\nmargins: {werr: 1}", "werr"),
        ("arms: {a: quickstart-rwkv7, b: quickstart-rwkv7}\nprompts: none.txt", "none.txt"),
        ("arms: {a: quickstart-rwkv7, b: quickstart-rwkv7}\nlimit: 5000", "5000"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_plan(write(tmp_path, text))


def test_arms_may_change_keys_of_a_system(tmp_path):
    text = """
arms:
  plain: quickstart-rwkv7
  cold: {system: quickstart-rwkv7, set: [sampling.temperature=0.5]}
vary: [sampling]
limit: 3
"""
    given = read_plan(write(tmp_path, text))
    assert [arm.key for arm in given.arms] == ["plain", "cold"]
    assert given.arms[1].config["sampling"]["temperature"] == 0.5
    keys = [each.key for each in config_diff.differences(given)]
    assert keys == ["sampling.temperature"]
    assert len(read_plan(write(tmp_path, text), quick=True).prompts) == 6


def test_the_engine_is_part_of_what_a_run_is(tmp_path):
    path = write(tmp_path, "arms: {a: quickstart-rwkv7, b: quickstart-rwkv7}\nengine: eager\n")
    eager, auto, narrow = (read_plan(path, engine=e) for e in (None, "auto", "native:int8"))
    assert (eager.engine, auto.engine, narrow.engine) == ("eager", "auto", "native:int8")
    assert len({each.fingerprint() for each in (eager, auto, narrow)}) == 3
    with pytest.raises(UsageError, match="'quick' is not an engine"):
        read_plan(path, engine="quick")


def test_the_bundled_ab_differs_in_the_backbone_alone():
    given = read_plan("quickstart")
    assert len(given.prompts) == 24
    assert all(each.meant for each in config_diff.differences(given) if "training" not in each.key)


def test_another_reference_is_another_run(tmp_path):
    """Its figures stand beside those of the arms, so a run must not go on with another one."""
    given, prints = plan(), []
    for content in (None, b"one", b"other", None):
        given.reference = None if content is None else tmp_path
        if content is not None:
            (tmp_path / "000.ogg").write_bytes(content)
        prints.append(given.fingerprint())
    assert len(set(prints)) == 3 and prints[0] == prints[3]
