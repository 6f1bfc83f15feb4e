"""Answers of the page and of other programs are read, and nobody who did not listen counts."""

import csv
import json

import pytest
from listening_toys import make, prefers_fancy, session

from wishbone.core.cli import main
from wishbone.core.contract.errors import DataError, UsageError
from wishbone.core.evaluate.listening.answers import read_answers
from wishbone.core.evaluate.listening.screening import counted, screen

pytest.importorskip("jinja2", reason="install the extra: pip install wishbone-tts[ab]")


def answered(tmp_path, rules, design="ab", **wishes):
    written, key = make(tmp_path, design=design, listeners=8, **wishes)
    folder = tmp_path / "test-answers"
    folder.mkdir()
    for number, rule in enumerate(rules):
        data = session(written, key, rule, number)
        (folder / f"{data['session']}.json").write_text(json.dumps(data))
    return written, folder


def test_answers_get_their_systems_back_whatever_the_sides_were(tmp_path):
    written, folder = answered(tmp_path, [prefers_fancy] * 4)
    answers = read_answers([folder], written.key)
    good = counted(answers, screen(answers))
    assert len(good) == 16 and len({answer.rater for answer in good}) == 4
    for answer in good:
        assert dict(zip(answer.systems, answer.scores, strict=True)) == {"steady": 0, "fancy": 1}
    assert {answer.systems for answer in good} == {("steady", "fancy"), ("fancy", "steady")}
    assert sum(answer.catch is True for answer in answers.answers) == 8


def test_the_pages_csv_says_the_same_as_its_json(tmp_path):
    written, folder = answered(tmp_path, [prefers_fancy] * 3)
    for path in list(folder.iterdir()):
        data = json.loads(path.read_text())
        with (tmp_path / f"{path.stem}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(
                "test session code form place trial clips answer seconds played".split()
            )
            for place, row in enumerate(data["answers"]):
                writer.writerow([
                    data["test"], data["session"], "", 0, place, row["trial"],
                    " ".join(row["clips"]), row["answer"], row["seconds"],
                    " ".join(map(str, row["played"])),
                ])  # fmt: skip
    tables = sorted(tmp_path.glob("*.csv"))
    assert read_answers(tables, written.key).answers == read_answers([folder], written.key).answers


@pytest.mark.parametrize(
    ("design", "careful", "careless"),
    [
        ("ab", prefers_fancy, lambda clips: "same"),
        ("cmos", lambda clips: clips[0]["degraded"] - clips[1]["degraded"], lambda clips: 0),
        ("abx", lambda clips: "ab"[
            (clips[0]["system"], clips[0]["degraded"]) != (clips[2]["system"], clips[2]["degraded"])
        ], lambda clips: "b" if (clips[0]["system"], clips[0]["degraded"]) == (
            clips[2]["system"], clips[2]["degraded"]) else "a"),
        ("mos", lambda clips: 1 if clips[0]["degraded"] else 4, lambda clips: 4),
        ("mushra", lambda clips: [10 if clip["degraded"] else 80 for clip in clips],
         lambda clips: [50 for clip in clips]),
    ],
)  # fmt: skip
def test_catch_trials_part_those_who_listen_from_those_who_do_not(
    tmp_path, design, careful, careless
):
    written, folder = answered(tmp_path, [careful, careless, careful], design)
    answers = read_answers([folder], written.key)
    notes = [note for note in screen(answers) if note.rule == "catch trials"]
    assert [note.rater for note in notes if note.excluded] == ["1" + 11 * "0"]
    assert len({answer.rater for answer in counted(answers, screen(answers))}) == 2


def test_listeners_who_did_not_play_or_were_too_fast_are_left_out(tmp_path):
    written, folder = answered(tmp_path, [prefers_fancy] * 3)
    first, second, _ = sorted(folder.iterdir())
    data = json.loads(first.read_text())
    for row in data["answers"]:
        row["played"][0] = 0.4
    first.write_text(json.dumps(data))
    data = json.loads(second.read_text())
    for row in data["answers"]:
        row["seconds"] = 0.1
    second.write_text(json.dumps(data))
    answers = read_answers([folder], written.key)
    notes = screen(answers)
    assert [(note.rule, note.excluded) for note in notes] == [
        ("forced play", True), ("too fast", True),
    ]  # fmt: skip
    assert len(counted(answers, notes)) == 4


def test_what_does_not_fit_the_key_is_left_out_and_counted(tmp_path):
    written, folder = answered(tmp_path, [prefers_fancy] * 2)
    first, second = sorted(folder.iterdir())
    data = json.loads(first.read_text())
    data["answers"][0]["answer"] = "neither"
    data["answers"][1]["clips"] = ["0" * 16, "1" * 16]
    del data["answers"][2]["trial"]
    first.write_text(json.dumps(data))
    again = json.loads(second.read_text())
    (folder / "again.json").write_text(json.dumps(again))
    (folder / "other.json").write_text(json.dumps({**again, "test": "another"}))
    answers = read_answers([folder], written.key)
    assert len(answers.answers) == 9
    assert sorted(words.split()[0] for words in answers.warnings) == ["3", "6", "6"]


def test_one_code_is_one_listener_in_two_sessions(tmp_path):
    written, key = make(tmp_path, listeners=4)
    for number in (0, 1):
        data = session(written, key, prefers_fancy, number, code="anna")
        (tmp_path / f"{number}.json").write_text(json.dumps(data))
    answers = read_answers([tmp_path / "0.json", tmp_path / "1.json"], written.key)
    assert {answer.rater for answer in answers.answers} == {"anna"}
    assert "repeat a trial" in answers.warnings[0]


def test_a_missing_key_and_a_broken_file_are_named(tmp_path):
    written, folder = answered(tmp_path, [prefers_fancy])
    with pytest.raises(UsageError, match="Without its key"):
        read_answers([folder], None)
    (folder / "x.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        read_answers([folder], written.key)
    with pytest.raises(UsageError, match="no answers"):
        read_answers([tmp_path / "wavs"], written.key)


PAIRED = """session_test_id,email,age,trial_id,choice_reference,choice_non_reference,\
choice_answer,choice_time,choice_comment
t,anna,30,trial1,C1,C2,correct,4000,
t,anna,30,trial2,C1,C2,undecided,3000,"well, hm"
t,bert,31,trial1,C1,C2,incorrect,4000,
t,bert,31,trial2,C1,C2,unknown,4000,
t,bert,31,trial3,C1,C2,correct,4000,
"""
MUSHRA = """session_test_id,session_uuid,trial_id,rating_stimulus,rating_score,rating_time,\
rating_comment
t,u1,trial1,reference,100,9,
t,u1,trial1,anchor35,20,9,
t,u1,trial1,C1,60,9,
t,u2,trial1,reference,70,9,
t,u2,trial1,anchor35,10,9,
t,u2,trial1,C1,80,9,
"""
SINGLE = """session_test_id,email,trial_id,stimuli_rating,stimuli,rating_time
t,anna,trial1, 4 ,C1,9
t,anna,trial1, 2 ,C2,9
"""


def test_a_paired_table_without_listeners_is_read_with_a_warning(tmp_path):
    path = tmp_path / "paired_comparison.csv"
    path.write_text(PAIRED)
    answers = read_answers([path], None)
    assert answers.design == "ab" and answers.systems == ["C1", "C2"]
    scores = [(answer.trial, answer.scores) for answer in answers.answers]
    assert scores == [
        ("trial1", (1, 0)), ("trial2", (0.5, 0.5)), ("trial1", (0, 1)), ("trial3", (1, 0)),
    ]  # fmt: skip
    assert len({answer.rater for answer in answers.answers}) == 2
    assert "no column for the listener" in answers.warnings[0]
    named = read_answers([path], None, rater="email")
    assert [answer.rater for answer in named.answers] == ["anna", "anna", "bert", "bert"]
    assert named.warnings == []
    with pytest.raises(UsageError, match="no column 'mail'"):
        read_answers([path], None, rater="mail")


def test_a_mushra_table_with_sessions_reference_and_anchors(tmp_path):
    path = tmp_path / "mushra.csv"
    path.write_text(MUSHRA)
    answers = read_answers([path], None)
    assert answers.design == "mushra" and answers.warnings == []
    assert (answers.reference, answers.anchors) == ("reference", ["anchor35"])
    assert answers.systems[0] == "C1" and answers.answers[0].scores == (100, 20, 60)
    (note,) = screen(answers)
    assert (note.rater, note.rule, note.excluded) == ("u2", "hidden reference", True)
    path.write_text(MUSHRA.replace("session_uuid,", "").replace("u1,", "").replace("u2,", ""))
    older = read_answers([path], None)
    assert [len(answer.scores) for answer in older.answers] == [3, 3] and older.warnings


def test_a_table_of_single_ratings_and_one_of_no_known_kind(tmp_path):
    path = tmp_path / "lss.csv"
    path.write_text(SINGLE)
    answers = read_answers([path], None, rater="email")
    assert answers.design == "mos" and [a.scores for a in answers.answers] == [(4,), (2,)]
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="no kind that is known"):
        read_answers([other], None)
    paired = tmp_path / "paired.csv"
    paired.write_text(PAIRED)
    with pytest.raises(UsageError, match="another design"):
        read_answers([path, paired], None, rater="email")


def test_the_commands_lead_from_recordings_to_a_verdict(tmp_path, capsys):
    for package in ("rich", "matplotlib"):
        pytest.importorskip(package, reason="install the extra: pip install wishbone-tts[ab]")
    written, folder = answered(tmp_path, [prefers_fancy] * 6 + [lambda clips: "same"])
    assert main.main(["listen", "analyze", str(written.folder), "--margin", "0.1"]) == 0
    output = capsys.readouterr().out
    assert "fancy against steady" in output and "Listeners prefer fancy to steady" in output
    result = json.loads((tmp_path / "test-verdict" / "listening.json").read_text())
    (comparison,) = result["estimates"]["comparisons"]
    assert comparison["verdict"] == "better" and comparison["value"] == 1.0
    assert result["estimates"]["listeners"] == 6 and result["everybody"]["listeners"] == 7
    page = (tmp_path / "test-verdict" / "listening.html").read_text()
    assert "Screening log" in page and "left out" in page
    assert main.main(["listen", "analyze", str(written.folder), "--base", "fancy"]) == 0
    assert "steady against fancy" in capsys.readouterr().out
    assert main.main(["listen", "analyze", str(written.folder), "--base", "nobody"]) == 2
