"""A suite from its YAML file to its result, with toys: turns, losses, absences, differences."""

import pytest
from bench_toys import FOLDER

from wishbone.core.bench.analysis import suite_result
from wishbone.core.bench.rounds import differences, run
from wishbone.core.bench.suite import read_plan
from wishbone.core.bench.summary import absent_lines
from wishbone.core.contract.errors import ConfigError, UnknownName

SUITE = """
about: toys
rounds: 4
count: 2
cases: [near, far]
check: {positions: 3, tolerance: 0.01}
contenders:
  slow: {name: toy, title: The slow, seconds: 0.03, log: LOG}
  fast: {name: toy, title: The fast, seconds: 0.01, log: LOG}
  third: {name: toy, seconds: 0.02, log: LOG, cases: [far]}
ratios:
  - {title: far, of: slow@far, over: fast@far, at_least: 2, stretch: 4}
  - {title: third, of: third, over: fast@far}
  - {title: rate, of: fast@far, over: slow@far, measure: bytes_per_second}
"""


@pytest.fixture
def suite(tmp_path, monkeypatch, register):
    """Write the suite, with overrides -> its plan."""
    register("contender", "toy", "bench_toys:Toy")
    monkeypatch.setenv("PYTHONPATH", FOLDER)
    path = tmp_path / "toys.yaml"

    def read(*overrides, text=SUITE, **options):
        path.write_text(text.replace("LOG", str(tmp_path / "log")))
        return read_plan(str(path), overrides, **options)

    return read


def result_of(plan):
    said = []
    return suite_result(plan, run(plan, said.append)), said


def test_contenders_take_turns_and_the_first_round_does_not_count(suite, tmp_path):
    result, _ = result_of(suite())
    lines = (tmp_path / "log").read_text().splitlines()
    # five rounds of five runs each; every contender's neighbours change from round to round
    assert len(lines) == 5 * 5
    assert lines[:5] == ["0.03 near", "0.01 near", "0.03 far", "0.01 far", "0.02 far"]
    assert lines[5:10] == ["0.01 near", "0.03 near", "0.01 far", "0.02 far", "0.03 far"]
    assert lines[10:15] == ["0.03 near", "0.01 near", "0.02 far", "0.03 far", "0.01 far"]
    assert [len(rounds) for rounds in result.contenders["slow"].rounds.values()] == [4, 4]
    assert len(result.loads) == 4


def test_what_slows_everybody_leaves_the_ratio_alone(suite):
    result, _ = result_of(suite())
    far, third, rate = result.ratios
    assert far.value == pytest.approx(3) and far.low == pytest.approx(far.high)
    assert far.status == "met" and far.sure and not far.reached
    assert third.status == "reported" and third.value == pytest.approx(2)
    assert rate.value == pytest.approx(3)
    rows = {(row.contender, row.case): row for row in result.rows}
    assert rows["slow", "near"].most == pytest.approx(2 * rows["slow", "near"].least)


def test_one_that_dies_is_reported_and_the_others_go_on(suite):
    result, said = result_of(suite("contenders.slow.dies_at=5"))
    slow = result.contenders["slow"]
    assert slow.status == "lost" and "the last words" in slow.why
    assert len([answer for answer in slow.rounds["near"] if answer]) == 2
    assert len(result.contenders["fast"].rounds["far"]) == 4
    statuses = {claim.title: claim.status for claim in result.ratios}
    assert statuses == {"far": "not measured", "third": "reported", "rate": "not measured"}
    assert any("the others go on" in line for line in said)


def test_one_that_is_missing_is_listed_with_what_to_do(suite):
    result, _ = result_of(suite("contenders.slow.absent='not installed: pip install slow'"))
    slow = result.contenders["slow"]
    assert slow.status == "missing" and "pip install slow" in slow.why
    assert slow.rounds == {} and result.contenders["fast"].status == "measured"
    assert "The slow: missing" in result.ratios[0].why


def test_one_that_cannot_load_is_listed_with_the_reason(suite):
    result, _ = result_of(suite("contenders.slow.refuses='no such engine'"))
    assert result.contenders["slow"].status == "failed"
    assert "no such engine" in result.contenders["slow"].why


def test_a_case_that_one_cannot_have_is_left_out_for_it_alone(suite):
    result, _ = result_of(suite("contenders.slow.refused_case=far"))
    slow = result.contenders["slow"]
    assert slow.status == "measured" and len(slow.rounds["near"]) == 4
    assert "far" not in slow.rounds and "no room" in slow.cases["far"]["left_out"]
    assert [claim.status for claim in result.ratios] == [
        "not measured", "reported", "not measured",
    ]  # fmt: skip
    assert any("far left out" in line for line in absent_lines(result))


def test_a_difference_stops_the_suite_before_anything_is_timed(suite):
    result, _ = result_of(suite("contenders.fast.answer=1.2"))
    assert "The fast in b" in result.stopped
    assert result.contenders["fast"].status == "differs"
    assert result.rows == []
    assert all(claim.status == "not measured" for claim in result.ratios)


def test_a_difference_within_the_tolerance_does_not(suite):
    result, _ = result_of(
        suite("contenders.fast.answer=1.2", "contenders.fast.tolerance=0.5", "rounds=1")
    )
    assert result.stopped == ""
    assert result.contenders["fast"].difference["steps"] == pytest.approx(0.2 / 10**0.5)


def test_differences_name_the_worst_tensor_and_fear_what_is_not_a_number():
    good = {"a": [1.0, 2.0], "b": [3.0]}
    assert differences(good, good) == ("a", 0.0)
    assert differences({"a": [1.0, 2.0], "b": [3.3]}, good)[0] == "b"
    name, off = differences({"a": [1.0, float("nan")], "b": [3.0]}, good)
    assert name == "a" and not off <= 1e9
    assert not differences({"a": [1.0]}, good)[1] <= 1e9


def test_a_contender_may_be_left_out_with_its_ratios(suite):
    plan = suite("contenders.third=null")
    assert list(plan.entries) == ["slow", "fast"]
    assert [ratio.title for ratio in plan.suite.ratios] == ["far", "rate"]


def test_mistakes_in_a_suite_are_told_before_anything_starts(suite):
    with pytest.raises(UnknownName, match="No contender is named 'tyo'"):
        suite(text=SUITE.replace("name: toy", "name: tyo"))
    with pytest.raises(ConfigError, match="secondz"):
        suite("contenders.slow.secondz=1")
    with pytest.raises(ConfigError, match="nearest"):
        suite("nearest=1")
    with pytest.raises(ConfigError, match="'slow@middle', which is not measured"):
        suite(text=SUITE.replace("slow@far, over", "slow@middle, over"))
    with pytest.raises(ConfigError, match="at least 1"):
        suite(rounds=0)
    with pytest.raises(ConfigError, match="no small version"):
        suite(quick=True)
