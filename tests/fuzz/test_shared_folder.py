"""Two processes in one folder, killed at any moment: nothing is lost, and nothing is made twice.

``WISHBONE_KILLS=50 python -m pytest -n 0 tests/fuzz/test_shared_folder.py -s`` kills so many
processes of each command and prints what came of it; by default it is two.
"""

import contextlib
import json
import os
import shutil
import sys
from collections import Counter

import pytest
from mutators import seeded

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
if not hasattr(os, "fork"):
    pytest.skip("needs processes that fork", allow_module_level=True)

from kill_commands import made_file  # noqa: E402
from kills import COMMANDS, LONGEST, NOTHING, begin, run  # noqa: E402
from tiny_corpus import write_recipe  # noqa: E402

from wishbone.core.data.bulk.bulk_part import finished  # noqa: E402
from wishbone.core.data.bulk.gather import gather  # noqa: E402
from wishbone.core.data.shards import Report  # noqa: E402

KILLS = int(os.environ.get("WISHBONE_KILLS", 2))
TOGETHER = 3
"""Kills of a folder at the most before its processes may end."""
LINES = "".join(f"{first} and {second}\n" for first in ("one two", "three", "four five six")
                for second in ("seven eight", "nine", "ten more words", "so on"))  # fmt: skip
PARTS = tuple({"RANK": str(rank), "WORLD_SIZE": "2"} for rank in (0, 1))
ALIKE = ({}, {})
"""Environments of two processes: each has a part, or both run one command over all of it."""
LISTED = {"ab --part": "parts/items-*.jsonl", "evaluate audio": "rows-*.jsonl"}
"""Command -> files in which its parts write a row for each recording that was judged."""
SHARED = {
    "data speak": (PARTS, ALIKE), "data tokenize": (PARTS, ALIKE), "data align": (PARTS, ALIKE),
    "synth": (PARTS,), "ab --part": (PARTS,), "evaluate audio": (PARTS,),
}  # fmt: skip
"""Command -> the ways in which processes share it; parts of a list have a file each."""


def pieces(name, out):
    """Name -> moment at which it was written, of every piece that counts as finished."""
    if name == "synth":
        rows = finished(out) if (out / "items").is_dir() else {}
        files = {key: out / row["audio"] for key, row in rows.items() if not row["failure"]}
    elif name in LISTED:
        return {key: rows[-1] for key, rows in listed(name, out).items()}
    else:
        report = Report(out) if (out / "report").is_dir() else None
        names = [key for key in report.shards if report.done(key)] if report else []
        files = {key: out / f"{key}.parquet" for key in names}
    return {key: (path.stat().st_mtime_ns, path.stat().st_ino) for key, path in files.items()}


def listed(name, out):
    """Name -> rows of every recording that was judged or spoken, in the files of all parts."""
    rows = {}
    for file in sorted(out.glob(LISTED[name])):
        for line in file.read_text().splitlines():
            with contextlib.suppress(ValueError):  # a line that a kill cut
                row = json.loads(line)
                names = [row[part] for part in ("arm", "prompt", "key") if part in row]
                names.append("judged" if "errors" in row else "spoken")
                rows.setdefault(" ".join(names), []).append(row)
    return rows


def made_twice(name, source, out):
    """Pieces that were finished more than once."""
    if name in LISTED:
        return [key for key, rows in listed(name, out).items() if len(rows) > 1]
    if name == "synth":
        lines = [line for file in (out / "items").glob("*.jsonl") for line in file.open()]
        names = [json.loads(line)["id"] for line in lines]
    else:
        # a process that was killed right after its shard has noted nothing
        path = made_file(source, out)
        names = path.read_text().splitlines() if path.exists() else []
    return [key for key, count in Counter(names).items() if count > 1]


def finish(processes):
    """Wait for processes -> their exit codes."""
    for process, _ in processes:
        process.join(LONGEST)
    return [process.exitcode for process, _ in processes]


@pytest.mark.timeout(600 + 60 * KILLS)
@pytest.mark.parametrize("name", SHARED)
def test_processes_share_a_folder_and_are_killed(name, tmp_path, like, voice, system):
    write_recipe(tmp_path, count=24)
    (tmp_path / "lines.txt").write_text(LINES)
    (tmp_path / "long.txt").write_text(LINES)
    if name == "data tokenize":
        assert run("data speak", tmp_path, tmp_path / "audio").code == 0
    if name == "evaluate audio":
        assert run("synth", tmp_path, tmp_path / "spoken").code == 0
    alone = tmp_path / "alone"
    undisturbed = run(name, tmp_path, alone)
    assert undisturbed.code == 0
    expected, random, faults = COMMANDS[name][1](alone), seeded(name, 1), []
    kills = before = 0
    while kills < KILLS:
        out, ways = tmp_path / f"shared{kills}", random.choice(SHARED[name])
        made = {}
        for _ in range(min(TOGETHER, KILLS - kills)):
            points = [NOTHING, NOTHING]
            victims = random.choice([(0,), (1,), (0, 1)])
            for victim in victims:
                points[victim] = random.randrange(max(2, undisturbed.operations // 2))
            both = [begin(name, tmp_path, out, at, how) for at, how in zip(points, ways)]  # noqa: B905
            if random.random() < 0.5:
                # one more at a moment, as libraries write without telling
                process = both[victims[0]][0]
                process.join(random.random() * undisturbed.seconds)
                process.kill()
            codes = finish(both)
            kills += codes.count(-9)
            if any(code not in (0, -9) for code in codes):
                faults.append(("exit codes", codes))
            now = pieces(name, out)
            again = [key for key in made if now.get(key) != made[key]]
            if again:
                faults.append(("made again, or lost", again))
            before, made = before + len(now), now
        codes = finish([begin(name, tmp_path, out, NOTHING, how) for how in ways])
        now = pieces(name, out)
        again = [key for key in made if now.get(key) != made[key]]
        same = codes == [0, 0] and COMMANDS[name][1](out) == expected
        twice = made_twice(name, tmp_path, out)
        if again or twice or not same:
            faults.append(("in the end", codes, again, twice, same))
        elif name not in LISTED and gather(out).get("kept") is None:
            faults.append(("the report",))
        shutil.rmtree(out)
        made_file(tmp_path, out).unlink(missing_ok=True)
    print(f"{name}: {kills} kills, {before} pieces were finished before one, {len(faults)} faults",
          file=sys.stderr)  # fmt: skip
    assert not faults, faults[:8]
