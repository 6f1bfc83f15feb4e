"""The bundled system speaks a list in parts: real processes, and the bytes of one process."""

import json

from wishbone.core.cli.main import main
from wishbone.core.scale.step import work_of

LINES = ["Good morning.", "Who goes there?", "It is late.", "A short line of words.", "Come in."]


def test_parts_of_a_list_are_what_one_process_speaks(tmp_path, capfd):
    path = tmp_path / "list.txt"
    path.write_text("\n".join(LINES) + "\n")
    alone, parts = tmp_path / "alone", tmp_path / "parts"
    assert main(["synth", str(path), "--out", str(alone)]) == 0
    assert main(["synth", str(path), "--out", str(parts), "--executor", "local:2"]) == 0
    assert "complete after" in capfd.readouterr().err
    assert (alone / "items.jsonl").read_bytes() == (parts / "items.jsonl").read_bytes()
    rows = [json.loads(line) for line in (parts / "items.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == LINES
    for row in rows:
        assert (alone / row["audio"]).read_bytes() == (parts / row["audio"]).read_bytes()
    assert {(work.part, work.items) for work in work_of(parts)} == {(1, 3), (2, 2)}
    assert main(["data", "gather", str(parts)]) == 0
    assert "items                                         5" in capfd.readouterr().out
    # nothing is missing, so nobody is started
    assert main(["synth", str(path), "--out", str(parts), "--executor", "local:2"]) == 0
    assert "nothing is missing" in capfd.readouterr().err and len(work_of(parts)) == 2


def test_an_item_that_fails_is_named_by_the_command_that_launched_its_part(tmp_path, capfd):
    path = tmp_path / "list.jsonl"
    rows = [{"text": "Good morning."}, {"text": "Who is there?", "voice": "nobody"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["synth", str(path), "--out", str(tmp_path / "out"), "--executor", "local:2"]
    assert main(words) == 5
    error = capfd.readouterr().err
    assert "Part 2/2 ended with exit code 5: 1 of 1 items failed" in error
    assert "no voice 'nobody'" in error
