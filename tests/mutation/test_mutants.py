"""What is planted, and which tests are asked: on toy code, without running any."""

from random import Random

import pytest

pytest.importorskip("cosmic_ray", reason="pip install 'wishbone-tts[mutation]'")

import mutants  # noqa: E402

CODE = '''
"""A module that is 5 years old."""


def length(sizes: "list[int] | None" = None, *, most: int = 9) -> int:
    """Add up 3 sizes."""
    total = 0
    for one, other in zip(sizes or [], sizes or [], strict=True):
        if one <= most and not (
            other < 0
        ):
            total += one
    return total
'''


def every(code):
    """One mutant at every place that has one."""
    random = Random(0)
    made = [
        mutants.planted("toy.py", code, place, choices, random)
        for place, choices in mutants.places(code).items()
    ]
    return [mutant for mutant in made if mutant]


def test_operators_change_what_is_computed_and_nothing_else():
    planted = every(CODE)
    assert {mutant.line for mutant in planted} == {5, 7, 8, 9, 10}
    for mutant in planted:
        compile(mutant.code, "toy.py", "exec")
        assert mutants.meaning(mutant.code) != mutants.meaning(CODE)
        assert "strict=False" not in mutant.code and "5 years" in mutant.code
        assert ", *," in mutant.code


def test_the_same_seed_draws_the_same_places(tmp_path):
    (tmp_path / "a.py").write_text(CODE)
    (tmp_path / "b.py").write_text(CODE)
    drawn = [mutants.sampled(tmp_path, ["a.py", "b.py"], 4, seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 4
    assert mutants.sampled(tmp_path, ["a.py", "b.py"], 2, 1) == drawn[0][:2]


def test_tests_that_run_the_changed_statement_are_asked_the_fastest_first():
    lines = {"9": ["slow", "fast"], "12": ["other"], "7": ["fast"]}
    known = {
        "lines": {"toy.py": lines},
        "seconds": {"slow": 40.0, "fast": 1.0, "other": 2.0},
        "failed": [],
    }
    mutant = mutants.Mutant("toy.py", 10, "NumberReplacer", "")
    # the condition goes over two lines; "slow" is beyond the seconds that one mutant is given
    assert mutants.tests_of(mutant, CODE, known) == ["fast"]
    assert mutants.tests_of(mutants.Mutant("toy.py", 12, "", ""), CODE, known) == ["other"]
    # what runs when the module is imported is seen by whoever runs any of it
    known["lines"]["toy.py"]["5"] = []
    assert mutants.tests_of(mutants.Mutant("toy.py", 5, "", ""), CODE, known) == ["fast", "other"]


def test_of_a_default_the_other_tests_of_the_same_files_are_asked_too():
    """What a dataclass makes of its fields is no line, so that no coverage sees who uses it."""
    seconds = {"a.py::runs": 3.0, "a.py::builds": 0.1, "a.py::slow": 11.0, "b.py::other": 0.1}
    known = {"lines": {"toy.py": {"5": [], "9": ["a.py::runs"]}}, "seconds": seconds, "failed": []}
    mutant = mutants.Mutant("toy.py", 5, "", "")
    assert mutants.tests_of(mutant, CODE, known) == ["a.py::runs", "a.py::builds"]
    known["failed"] = ["a.py::builds"]
    assert mutants.tests_of(mutant, CODE, known) == ["a.py::runs", "a.py::slow"]
    # a line that somebody runs is asked of those alone
    assert mutants.tests_of(mutants.Mutant("toy.py", 10, "", ""), CODE, known) == ["a.py::runs"]


def test_every_part_names_code_and_tests_that_exist():
    for folders, tests in mutants.PARTS.values():
        assert all((mutants.ROOT / folder).exists() for folder in folders)
        assert all((mutants.ROOT / "tests" / test).exists() for test in tests.split())
