"""The file of an A/B: its mistakes, its engine, and what makes two runs the same."""

import pytest
from test_ab_parts import plan

from wishbone.core.contract.errors import ConfigError, DataError, UsageError
from wishbone.core.evaluate.ab import _claim
from wishbone.core.evaluate.experiment import config_diff
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import read_plan
from wishbone.core.evaluate.sources.speak_missing import read_costs


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


def test_a_torn_line_costs_itself_alone(tmp_path):
    items = Items(tmp_path / "items.jsonl")
    items.add("a", "000", 0, {"text": "one\u2028line"})
    items.add("a", "001", 0, {"text": "two"})
    whole = (tmp_path / "items.jsonl").read_bytes()
    (tmp_path / "items.jsonl").write_bytes(whole[:-9])
    again = Items(tmp_path / "items.jsonl")
    assert again.get("a", "000", 0).text == "one\u2028line" and not again.get("a", "001", 0).text
    again.add("a", "002", 0, {"text": "three"})
    assert Items(tmp_path / "items.jsonl").get("a", "002", 0).text == "three"


@pytest.mark.parametrize(
    "line", ["[1]", "{}", '{"arm": "a", "prompt": "0", "repeat": 0, "seed": "x"}']
)
def test_a_line_of_something_else_is_named(tmp_path, line):
    (tmp_path / "items.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match="damaged") as refused:
        Items(tmp_path / "items.jsonl")
    assert refused.value.where.endswith("items.jsonl:1")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"length": 3}', "\xff"])
def test_damaged_files_of_a_run_are_three_lines(tmp_path, text):
    for name, read in (
        ("run.json", lambda: _claim(plan(), tmp_path)),
        ("measured.json", lambda: read_costs(tmp_path / "measured.json")),
    ):
        (tmp_path / name).write_text(text, encoding="latin-1")
        with pytest.raises((DataError, UsageError)) as refused:
            read()
        assert refused.value.where and refused.value.do
