"""``wishbone data gather``: parts that are missing, there twice or of something else are named."""

import json

import pytest

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")

from test_bulk import ITEMS, bulk, spoken  # noqa: E402
from test_data_shards import NAMES, SETTINGS  # noqa: E402
from tiny_corpus import ABOUT, rows  # noqa: E402

from wishbone.core.cli.data import main  # noqa: E402
from wishbone.core.contract.errors import DataError  # noqa: E402
from wishbone.core.data.bulk.gather import gather  # noqa: E402
from wishbone.core.data.bulk.token_index import INDEX, open_tokens  # noqa: E402
from wishbone.core.data.shards import Report, ShardReport, ShardStep, gathered, run_step  # noqa: E402
from wishbone.core.data.tokens import read_tokens, write_tokens  # noqa: E402


def make(name, folder, ids=None):
    """A shard of token data with five utterances of its own."""
    made = [row | {"id": f"{ids or name}-{row['id']}"} for row in rows(5, seed=int(name))]
    write_tokens(folder / f"{name}.parquet", made, ABOUT)
    return ShardReport(name, kept=5, seconds=sum(row["seconds"] for row in made))


def step(folder, names=NAMES[:5]):
    return ShardStep(make, [(name, (name, folder)) for name in names], folder, SETTINGS)


def test_parts_are_what_one_process_makes(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_step(step(whole))
    for part in (3, 1, 2):
        assert step(parts).unfinished(part - 1, 3)
        run_step(step(parts), part, 3)
        assert not step(parts).unfinished(part - 1, 3)
    for name in NAMES[:5]:
        files = [folder / f"{name}.parquet" for folder in (whole, parts)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert gathered(whole).as_data() == gathered(parts).as_data()


def test_a_complete_folder_gets_one_report_and_an_index(tmp_path, capsys):
    run_step(step(tmp_path))
    assert main(["gather", str(tmp_path)]) == 0
    lines = dict(line.rsplit(None, 1) for line in capsys.readouterr().out.splitlines()[2:])
    assert lines["shards"] == "5" and lines["kept"] == "25" and lines["starts of parts"] == "1"
    assert list(open_tokens(tmp_path).ids) == list(read_tokens(tmp_path).ids)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["total"] == gathered(tmp_path).total() and len(report["shards"]) == 5
    assert not list((tmp_path / "report").glob("*.lock"))
    # what was gathered may get more shards, and is gathered again
    run_step(step(tmp_path, NAMES[:7]))
    assert gather(tmp_path)["shards"] == 7 and len(open_tokens(tmp_path)) == 35


def test_shards_that_are_missing_are_named(tmp_path):
    run_step(step(tmp_path), 1, 2)
    with pytest.raises(DataError, match=f"2 of 5 shards are missing: {NAMES[1]}, {NAMES[3]}"):
        gather(tmp_path)
    run_step(step(tmp_path), 2, 2)
    (tmp_path / f"{NAMES[4]}.parquet").unlink()
    with pytest.raises(DataError, match=f"1 of 5 shards are missing: {NAMES[4]}"):
        gather(tmp_path)
    assert not (tmp_path / INDEX).exists() and not (tmp_path / "report.json").exists()


def test_a_file_of_no_part_is_named(tmp_path):
    run_step(step(tmp_path))
    write_tokens(tmp_path / "odd.parquet", rows(2), ABOUT)
    with pytest.raises(DataError, match="No report tells of 1 files: odd"):
        gather(tmp_path)


def test_an_utterance_that_is_there_twice_is_named_with_its_file(tmp_path):
    run_step(step(tmp_path))
    make(NAMES[3], tmp_path, ids=NAMES[1])
    with pytest.raises(
        DataError, match=f"5 utterances are there twice, such as '{NAMES[1]}-u0'"
    ) as e:
        gather(tmp_path)
    assert e.value.where.endswith(f"{NAMES[3]}.parquet")


def test_a_file_with_other_rows_than_its_report_says_is_named(tmp_path):
    run_step(step(tmp_path))
    write_tokens(tmp_path / f"{NAMES[2]}.parquet", rows(4), ABOUT)
    with pytest.raises(DataError, match="has 4 utterances, its report says 5"):
        gather(tmp_path)


def test_parts_of_another_configuration_are_named(tmp_path):
    run_step(step(tmp_path))
    made = rows(5)
    write_tokens(tmp_path / f"{NAMES[4]}.parquet", made, ABOUT | {"codec": "another"})
    with pytest.raises(DataError, match="different parts"):
        gather(tmp_path)
    Report(tmp_path, SETTINGS)
    path = tmp_path / "report" / f"{NAMES[4]}.json"
    path.write_text(path.read_text().replace("tone", "other"))
    with pytest.raises(DataError, match="another value of: teacher"):
        gather(tmp_path)


def test_a_shard_of_another_process_is_waited_for_and_not_made_again(tmp_path):
    """While this process is busy with its first shard, another has made the second."""
    made = []

    def work(name, folder):
        made.append(name)
        if len(made) == 1:
            run_step(step(tmp_path, NAMES[1:2]))
        return make(name, folder)

    ours = ShardStep(work, step(tmp_path).jobs, tmp_path, SETTINGS)
    run_step(ours)
    assert made == [name for name in NAMES[:5] if name != NAMES[1]]


def test_a_list_that_was_spoken_is_gathered(tmp_path):
    out = tmp_path / "out"
    spoken(out, 1, 2)
    with pytest.raises(DataError, match="2 of 4 items are missing"):
        gather(out)
    spoken(out, 2, 2)
    bulk.gather(ITEMS, out)
    assert gather(out)["items"] == 4
    report = json.loads((out / "report.json").read_text())
    assert report["total"]["kept"] == 4 and report["settings"]["items"] == 4
    lines = (out / "items.jsonl").read_text().splitlines()
    (out / "items.jsonl").write_text("\n".join([*lines, lines[0]]) + "\n")
    with pytest.raises(DataError, match="other items than the parts"):
        gather(out)
    (out / "synth.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        gather(out)


def test_a_list_is_spoken_in_one_number_of_parts_at_a_time(tmp_path, monkeypatch):
    from filelock import FileLock

    from wishbone.core.contract.errors import UsageError
    from wishbone.core.scale import part_lock

    monkeypatch.setattr(part_lock, "PATIENCE", 0.1)
    out = tmp_path / "out"
    spoken(out, 1, 2)
    with FileLock(out / "items" / "00002-of-00002.jsonl.lock"):
        with pytest.raises(UsageError, match="spoken in 2 parts, and this is one of 3"):
            spoken(out, 1, 3)
    assert len(spoken(out, 1, 1)) == 2
