"""Processes that write parts of one folder at once: no entry is lost, nothing is made twice."""

import json
import multiprocessing

import pytest

from wishbone.core.cli.data import main
from wishbone.core.contract.errors import DataError
from wishbone.core.data.shards import Report, ShardReport, gathered, run_shards

SETTINGS = {"teacher": "tone", "shape": (1, 2)}


def make(name, folder, barrier=None):
    """A shard of two utterances, one of them dropped, when all processes are at theirs."""
    if barrier:
        barrier.wait(30)
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.made").open("a") as log:
        log.write("once ")
    (folder / f"{name}.parquet").touch()
    report = ShardReport(name, kept=1, seconds=1800)
    report.drop(f"{name}-2", "a text", "empty audio: none")
    return report


def make_all(folder, names, barrier=None):
    jobs = [(name, (name, folder, barrier)) for name in names]
    return run_shards(make, jobs, folder, SETTINGS)


NAMES = [f"{number:06d}" for number in range(12)]


def at_once(folder, parts):
    """Make every part in a process of its own -> their exit codes."""
    context = multiprocessing.get_context("forkserver")
    barrier = context.Barrier(len(parts))
    workers = [context.Process(target=make_all, args=(folder, part, barrier)) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    return [worker.exitcode for worker in workers]


def test_two_processes_write_parts_of_one_folder_at_once(tmp_path):
    assert at_once(tmp_path / "out", [NAMES[::2], NAMES[1::2]]) == [0, 0]
    report = gathered(tmp_path / "out")
    assert sorted(report.shards) == NAMES
    assert report.total() == {"kept": 12, "hours": 6.0, "dropped": {"empty audio": 12}}
    again = make_all(tmp_path / "out", NAMES)
    assert again.as_data() == report.as_data()
    assert {path.read_text() for path in (tmp_path / "out").glob("*.made")} == {"once "}


def test_the_end_of_a_command_counts_what_others_made_meanwhile(tmp_path, capsys):
    def work(name):
        make_all(tmp_path, NAMES[1:3])
        return make(name, tmp_path)

    report = run_shards(work, [(NAMES[0], (NAMES[0],))], tmp_path, SETTINGS)
    assert sorted(report.shards) == NAMES[:3]
    assert "3 utterances, 1.5 h" in capsys.readouterr().err


def as_before(folder, names):
    """A folder as earlier versions left it, with one report for all shards."""
    made = make_all(folder, names)
    data = json.dumps(made.as_data())
    for path in (folder / "report").iterdir():
        path.unlink()
    (folder / "report").rmdir()
    (folder / "report.json").write_text(data)
    return data


def test_a_folder_with_one_report_is_gone_on_with(tmp_path):
    before = as_before(tmp_path, NAMES[:3])
    (tmp_path / f"{NAMES[1]}.parquet").unlink()
    report = make_all(tmp_path, NAMES[:4])
    assert sorted(report.shards) == NAMES[:4]
    remade = [(tmp_path / f"{name}.made").read_text() for name in NAMES[:4]]
    assert remade == ["once ", "once once ", "once ", "once "]
    assert (tmp_path / "report.json").read_text() == before
    with pytest.raises(DataError, match="another value of: teacher"):
        Report(tmp_path, SETTINGS | {"teacher": "another"})


def test_a_shard_without_an_entry_is_made_again(tmp_path):
    make_all(tmp_path, NAMES[:2])
    (tmp_path / "report" / f"{NAMES[1]}.json").unlink()
    make_all(tmp_path, NAMES[:2])
    assert (tmp_path / f"{NAMES[1]}.made").read_text() == "once once "


def test_a_folder_is_somebodys_before_its_first_shard(tmp_path):
    """A second process may start between the first one's shard and its entry."""
    Report(tmp_path, SETTINGS)
    (tmp_path / "000000.parquet").touch()
    assert not Report(tmp_path, SETTINGS).shards
    with pytest.raises(DataError, match="another value of: teacher"):
        Report(tmp_path, {"shape": (1, 2)})


def test_reports_made_with_different_settings_are_not_mixed(tmp_path):
    make_all(tmp_path, NAMES[:2])
    path = tmp_path / "report" / f"{NAMES[1]}.json"
    path.write_text(path.read_text().replace("tone", "other"))
    with pytest.raises(DataError, match="another value of: teacher") as caught:
        gathered(tmp_path)
    assert caught.value.where == str(path)


def test_a_command_gathers_the_report(tmp_path, capsys):
    make_all(tmp_path / "out", NAMES[:3])
    file = tmp_path / "gathered.json"
    assert main(["report", str(tmp_path / "out"), "--out", str(file)]) == 0
    rows = dict(line.rsplit(None, 1) for line in capsys.readouterr().out.splitlines()[2:])
    assert rows == {"shards": "3", "kept": "3", "hours": "1.5", "dropped: empty audio": "3"}
    data = json.loads(file.read_text())
    assert data == json.loads(json.dumps(gathered(tmp_path / "out").as_data()))
    assert data["shards"][NAMES[2]]["dropped"][0]["id"] == f"{NAMES[2]}-2"


@pytest.mark.parametrize(("text", "said"), [(None, "no report"), ("{", "cannot be read")])
def test_a_folder_without_a_report_says_so(tmp_path, text, said):
    if text:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(DataError, match=said):
        main(["report", str(tmp_path)])
