"""Results of comparisons that are done: shown again, compared, and repeated."""

import csv
from dataclasses import replace

import ab_results
import pytest
from test_ab_parts import plan

from wishbone.core.cli import ab
from wishbone.core.cli.evaluation import ab_runs
from wishbone.core.contract.errors import DataError, UsageError
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.report import item_rows, run_tables
from wishbone.core.evaluate.result import to_json
from wishbone.core.report import charts
from wishbone.core.report.json_file import write_json

AB = "install the extra: pip install wishbone-tts[ab]"


def run(folder, dnsmos, prompts=6):
    """A run of two arms whose quality is ``dnsmos`` plus what the prompt makes of it."""
    folder.mkdir(exist_ok=True)
    given = plan(prompts=prompts)
    items = Items(folder / "items.jsonl")
    for arm, more in (("old", 0.0), ("new", 0.2)):
        for place, prompt in enumerate(given.prompts):
            row = {
                "text": prompt.text, "audio": "", "heard": "words", "errors": 1, "words": 2,
                "dnsmos": dnsmos + more + 0.1 * place, "rtf": 0.2, "failure": "",
                "seconds": 1.0, "token_rate": 90.0,
            }  # fmt: skip
            items.add(arm, prompt.key, 0, row)
    result = ab_results.result(given, items)
    write_json(folder / "ab.json", to_json(result))
    item_rows.write_items(given, items, folder)
    return result


def test_the_same_arms_of_two_runs_are_paired_by_their_sentences(tmp_path):
    one, other = run(tmp_path / "one", 3.0), run(tmp_path / "other", 3.5, prompts=4)
    table = run_tables.values(one, other)
    rows = {row[0]: row[1:] for row in table.rows}
    row = next(row for title, row in rows.items() if title.startswith("new: predicted quality"))
    # four sentences are in both; each is better by half a point, whatever the means are
    assert row[:5] == ["3.45", "3.85", "+0.50", "+0.50 to +0.50", "4"]
    speed = next(row for title, row in rows.items() if title.startswith("old: real-time"))
    assert speed[2].endswith("%") and speed[5] == "baseline"
    conditions = {row[0]: row[1:] for row in run_tables.conditions(one, other).rows}
    assert conditions == {"prompts": ["6", "4"]}
    moved = replace(other, provenance=replace(other.provenance, distributions={"torch": "3"}))
    assert ["versions.torch", "2", "3"] in run_tables.conditions(one, moved).rows


def test_words_weigh_in_word_errors_alone(tmp_path):
    one, other = run(tmp_path / "one", 3.0), run(tmp_path / "other", 3.0)
    errors = {key: [[0.0]] * 5 + [[60.0]] for key in ("old", "new")}
    words = [1.0] * 5 + [5.0]
    for result in (one, other):
        result.raw.words[:] = words
    other.raw.values["wer"].update(errors)
    one.raw.values["wer"].update({key: [[0.0]] * 6 for key in errors})
    rows = {row[0]: row for row in run_tables.values(one, other).rows}
    # one sentence has half of the words, and would be a sixth of the sentences
    assert (
        next(row for name, row in rows.items() if name.startswith("new: word errors"))[3] == "+30.0"
    )


def test_show_prints_and_exports(tmp_path, capsys):
    pytest.importorskip("rich", reason=AB)
    run(tmp_path / "one", 3.0)
    target = tmp_path / "items.csv"
    assert ab.main(["show", str(tmp_path / "one"), "--items", str(target)]) == 0
    assert "predicted quality" in capsys.readouterr().out
    assert len(list(csv.DictReader(target.open()))) == 12
    assert ab.main(["diff", str(tmp_path / "one"), str(tmp_path / "one" / "ab.json")]) == 0
    assert "Nothing else differs." in capsys.readouterr().out
    with pytest.raises(UsageError, match="no kind of table"):
        ab.main(["show", str(tmp_path / "one"), "--items", "x.xls"])
    with pytest.raises(DataError, match="no result"):
        ab.main(["show", str(tmp_path / "none")])


def test_the_table_of_items_is_parquet_where_pyarrow_is(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install wishbone-tts[train]")
    run(tmp_path / "one", 3.0)
    table = parquet.read_table(item_rows.copy_items(tmp_path / "one", tmp_path / "items.parquet"))
    assert table.num_rows == 12 and table["prompt"][0].as_py() == "000"
    assert abs(table["dnsmos"][0].as_py() - 3.0) < 1e-9


def test_a_run_is_repeated_by_its_own_command(tmp_path, capsys):
    pytest.importorskip("rich", reason=AB)
    result = run(tmp_path / "one", 3.0)
    command = ["wishbone", "ab", "mine.yaml", "limit=6", "--out", "a", "--fail-if", "wer > 1"]
    result = replace(result, provenance=replace(result.provenance, command=command))
    write_json(tmp_path / "one" / "ab.json", to_json(result))

    def compare(words):
        assert words == ["mine.yaml", "limit=6", "--out", str(tmp_path / "again")]
        run(tmp_path / "again", 3.1)
        return 0

    words = ["replay", str(tmp_path / "one"), "--out", str(tmp_path / "again")]
    assert ab_runs.main(words, compare) == 0
    assert "+0.10" in capsys.readouterr().out
    with pytest.raises(UsageError, match="exists"):
        ab_runs.main(words, compare)
    run(tmp_path / "old", 3.0)
    with pytest.raises(DataError, match="by which command"):
        ab_runs.main(["replay", str(tmp_path / "old"), "--out", str(tmp_path / "new")], compare)


def test_the_option_replay_is_the_subcommand(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(ab_runs, "main", lambda words, compare: called.append(words) or 0)
    assert ab.main(["--replay", "runs/one/ab.json", "--out", str(tmp_path)]) == 0
    assert ab.main(["--replay=runs/one"]) == 0
    assert called == [
        ["replay", "runs/one/ab.json", "--out", str(tmp_path)],
        ["replay", "runs/one"],
    ]
    for words in (["quickstart", "--replay", "one"], ["--replay", "one", "--prompts", "9"]):
        with pytest.raises(UsageError, match="as it was"):
            ab.main(words)
    assert len(called) == 2


def test_points_that_no_other_beats():
    def point(name, x, y):
        return charts.Point(name, (x, x, x), (y, y, y))

    points = [point("cheap", 1, 9), point("good", 3, 5), point("worse", 4, 6), point("twin", 3, 5)]
    plane = charts.Plane("", "", "", points, upward_is_better=False)
    assert [p.name for p in charts.unbeaten(plane)] == ["cheap", "good", "twin"]
    better = charts.Plane("", "", "", points, upward_is_better=True)
    assert [p.name for p in charts.unbeaten(better)] == ["cheap"]
