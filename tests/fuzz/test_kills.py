"""Commands killed at any operation on a file, and at any moment: the same command makes the same,
and leaves nothing.

``WISHBONE_KILLS=100 python -m pytest tests/fuzz/test_kills.py -s`` kills each command so many times
and prints how many did not go on; by default it is one, at an operation chosen by chance but always
the same. Of more, every second one is at a moment, which may come after the end.

Of 125 points each, without a fault: train was killed 116 times, say --lines 115, synth 117, ab 119,
data text 113, data join 100, data speak 105, data tokenize 112, data align 123 times.
"""

import os
import shutil
import sys

import pytest
from mutators import seeded

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
if not hasattr(os, "fork"):
    pytest.skip("needs processes that fork", allow_module_level=True)

from kills import COMMANDS, run  # noqa: E402
from tiny_corpus import write_recipe  # noqa: E402

KILLS = int(os.environ.get("WISHBONE_KILLS", 1))
LONG = "\n".join(["one two three", "four five six", "seven eight nine", "ten more words"]) + "\n"
LINES = "We go there.\nStop.\nOne more line of words.\nAnd back again!\n"


def _left(out):
    """Files that only an unfinished command has."""
    return [path for path in out.rglob(".*") if path.name != ".gitignore"]


@pytest.mark.timeout(600 + 60 * KILLS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_goes_on(name, tmp_path, like, voice, system):
    read = COMMANDS[name][1]
    write_recipe(tmp_path, count=24)
    (tmp_path / "lines.txt").write_text(LINES)
    (tmp_path / "long.txt").write_text(LONG)
    if name == "data tokenize":
        assert run("data speak", tmp_path, tmp_path / "audio").code == 0
    if name == "evaluate audio":
        assert run("synth", tmp_path, tmp_path / "spoken").code == 0
    first = tmp_path / "first"
    undisturbed = run(name, tmp_path, first)
    assert undisturbed.code == 0 and undisturbed.operations > 3
    expected, faults, cut, random = read(first), [], 0, seeded(name, 0)
    for number in range(KILLS):
        if number % 2:
            point = {"kill_after": random.random() * undisturbed.seconds}
        else:
            point = {"kill_at": random.randrange(undisturbed.operations)}
        out = tmp_path / f"cut{number}"
        killed = run(name, tmp_path, out, **point).code
        cut += killed == -9
        # a moment may come after the end; 'say' would refuse to write over what it finished
        expected_codes = (-9,) if "kill_at" in point else (-9, 0)
        code = run(name, tmp_path, out).code if killed else 0
        same = code == 0 and read(out) == expected
        if killed not in expected_codes or not same or _left(out):
            faults.append((point, killed, code, same, [path.name for path in _left(out)]))
        shutil.rmtree(out, ignore_errors=True)
    print(f"{name}: {undisturbed.operations} operations on files in {undisturbed.seconds:.1f} s,"
          f" {cut} kills, {len(faults)} faults", file=sys.stderr)  # fmt: skip
    assert not faults, f"point, exit codes, the same, what is left: {faults[:12]}"
