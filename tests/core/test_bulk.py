"""``wishbone synth``: lists that lie, parts that share the work, kills, and what is written."""

import json
import sys
from pathlib import Path

import pytest
import soundfile

from wishbone.core.contract.errors import DataError, UsageError
from wishbone.core.data.bulk import bulk_part as bulk
from wishbone.core.data.bulk.lists import Item, read_list
from wishbone.core.scale.share import which_part
from wishbone.core.speak.server import Server

sys.path.insert(0, str(Path(__file__).parent))
from tiny_system import tiny_system  # noqa: E402

ITEMS = [
    Item(f"{n:03d}", text) for n, text in enumerate(["we go", "on and on", "to the end", "ab"])
]


def test_lists_of_every_form(tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "One."}\n\n{"id": "b", "text": "Two.", "seed": 3, "voice": "v"}\n')
    assert read_list(lines) == [Item("000", "One."), Item("b", "Two.", "v", 3)]
    table = tmp_path / "a.csv"
    table.write_text('\ufefftext,seed\n"One, two.",5\nThree.,\n', encoding="utf-8")
    assert read_list(table) == [Item("000", "One, two.", seed=5), Item("001", "Three.")]
    meta = tmp_path / "meta.lst"
    meta.write_text("x1|Said before.|wavs/p.wav|To say.\n")
    voice = {"recording": str(tmp_path / "wavs/p.wav"), "transcript": "Said before."}
    assert read_list(meta) == [Item("x1", "To say.", **voice)]
    plain = tmp_path / "a.txt"
    plain.write_text("One.\n\nTwo.\n")
    assert [item.id for item in read_list(plain)] == ["000", "001"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"text": ""}', "no text"),
        ('{"text": 3}', "no text"),
        ('{"text": "a", "id": "../x"}', "cannot name a file"),
        ('{"text": "a", "id": ".."}', "cannot name a file"),
        ('{"text": "a", "seed": -1}', "whole number"),
        ('{"text": "a", "seed": true}', "whole number"),
        ('{"text": "a", "pitch": 2}', "no field"),
        ('{"text": "a", "voice": "v", "recording": "r.wav"}', "both say who"),
        ('["a"]', "no object"),
        ("{", "no JSON"),
        ('{"text": "a", "id": "000"}', "that of line 1"),
    ],
)
def test_a_line_that_is_no_item_is_named(tmp_path, line, why):
    file = tmp_path / "list.jsonl"
    file.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(DataError, match=why) as error:
        read_list(file)
    assert error.value.where.endswith("list.jsonl:2")


def system():
    built = tiny_system()
    built.model.requires_grad_(False)
    return built


def spoken(out, part, parts, items=ITEMS, how=None):
    how = how or bulk.How(together=2, form="wav")
    bulk.claim(out, items, "system", how)
    return bulk.speak_part(system(), items, out, how, part, parts)


def test_parts_make_what_one_process_makes_and_nothing_twice(tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert len(spoken(alone, 1, 1)) == 4 and bulk.gather(ITEMS, alone) == 0
    assert len(spoken(shared, 2, 2)) == 2 and bulk.gather(ITEMS, shared) == 2
    assert not (shared / bulk.ITEMS).exists()
    # another division of the work passes over what is done
    # (rows come as items end, and of two at once either may be first)
    assert sorted(row["id"] for row in spoken(shared, 1, 1)) == ["000", "002"]
    assert bulk.gather(ITEMS, shared) == 0
    assert (alone / bulk.ITEMS).read_bytes() == (shared / bulk.ITEMS).read_bytes()
    for row in map(json.loads, (alone / bulk.ITEMS).read_text().splitlines()):
        assert (alone / row["audio"]).read_bytes() == (shared / row["audio"]).read_bytes()
        audio, rate = soundfile.read(alone / row["audio"])
        assert row["failure"] == "" and abs(len(audio) / rate - row["seconds"]) < 1e-3
        assert row["codes"] and row["seed"] == 0
    assert spoken(shared, 1, 2) == []


def test_a_kill_between_two_items_loses_nothing(tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    spoken(whole, 1, 1)
    bulk.gather(ITEMS, whole)
    say = Server.say

    def dies(self, requests):
        for number, answer in enumerate(say(self, requests)):
            if number == 2:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(Server, "say", dies)
    with pytest.raises(KeyboardInterrupt):
        spoken(killed, 1, 1)
    monkeypatch.undo()
    record = killed / "items" / "00001-of-00001.jsonl"
    with record.open("a") as file:
        file.write('{"id": "003", "audio": "audio/0')  # a line that the kill cut
    assert len(spoken(killed, 1, 1)) == 2 and bulk.gather(ITEMS, killed) == 0
    assert (killed / bulk.ITEMS).read_bytes() == (whole / bulk.ITEMS).read_bytes()
    # a recording that went is spoken again
    (killed / "audio" / "001.wav").unlink()
    assert len(spoken(killed, 1, 1)) == 1 and bulk.gather(ITEMS, killed) == 0
    assert (killed / bulk.ITEMS).read_bytes() == (whole / bulk.ITEMS).read_bytes()


def test_an_item_that_cannot_be_spoken_ends_itself_alone(tmp_path):
    items = [*ITEMS[:2], Item("x", "we", voice="nobody"), Item("y", "?!")]
    rows = {row["id"]: row for row in spoken(tmp_path / "out", 1, 1, items)}
    assert "no voice 'nobody'" in rows["x"]["failure"] and rows["x"]["audio"] == ""
    assert rows["y"]["failure"] and not rows["000"]["failure"] and not rows["001"]["failure"]
    assert bulk.gather(items, tmp_path / "out") == 0


def test_folders_of_something_else_are_refused(tmp_path):
    out = tmp_path / "out"
    spoken(out, 1, 1)
    with pytest.raises(UsageError, match="another seed"):
        spoken(out, 1, 1, how=bulk.How(seed=1, together=2, form="wav"))
    with pytest.raises(UsageError, match="another items, list"):
        spoken(out, 1, 1, ITEMS[:3])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="something else"):
        spoken(tmp_path / "other", 1, 1)
    with bulk.FileLock(out / "items" / "00001-of-00002.jsonl.lock"):
        with pytest.raises(UsageError, match="another process"):
            spoken(out, 1, 2)


def test_the_part_of_a_process():
    assert which_part("", {}) == (1, 1)
    assert which_part("3/64", {"RANK": "1", "WORLD_SIZE": "2"}) == (3, 64)
    assert which_part("", {"RANK": "1", "WORLD_SIZE": "2"}) == (2, 2)
    slurm = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_COUNT": "8"}
    assert which_part("", slurm) == (4, 8)
    for words in ("0/2", "3/2", "x", "1/0", "-1/2"):
        with pytest.raises(UsageError, match="no part"):
            which_part(words, {})
    for lying in ({"SLURM_ARRAY_TASK_ID": "x"}, {"WORLD_SIZE": "2"}, {"WORLD_SIZE": "many"}):
        with pytest.raises(UsageError, match="no part"):
            which_part("", lying)


def test_a_kill_before_the_folder_is_marked_leaves_nothing_to_clear_up(tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".synth.json.1").touch()
    assert len(spoken(tmp_path / "begun", 1, 1)) == 4
    marked = tmp_path / "marked"
    bulk.claim(marked, ITEMS, "system", bulk.How(together=2, form="wav"))
    for folder in ("items", "audio"):
        (marked / folder).rmdir()
    assert len(spoken(marked, 1, 1)) == 4
