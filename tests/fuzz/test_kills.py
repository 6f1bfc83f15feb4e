"""Commands killed at any operation on a file: the same command makes the same, and leaves nothing.

``WISHBONE_KILLS=100 python -m pytest tests/fuzz/test_kills.py -s`` kills each command so many times
and prints how many resumed; by default it is one, at an operation chosen by chance but always the
same.
"""

import os
import sys

import pytest
from mutators import seeded

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
if not hasattr(os, "fork"):
    pytest.skip("needs processes that fork", allow_module_level=True)

from kills import COMMANDS, run  # noqa: E402
from tiny_corpus import write_recipe  # noqa: E402

KILLS = int(os.environ.get("WISHBONE_KILLS", 1))
LINES = "We go there.\nStop.\nOne more line of words.\nAnd back again!\n"


def _left(out):
    """Files that only an unfinished command has."""
    return [path for path in out.rglob(".*") if path.name != ".gitignore"]


@pytest.mark.timeout(600 + 60 * KILLS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_goes_on(name, tmp_path):
    read = COMMANDS[name][1]
    write_recipe(tmp_path, count=24)
    (tmp_path / "lines.txt").write_text(LINES)
    whole = tmp_path / "whole"
    code, operations = run(name, tmp_path, whole)
    assert code == 0 and operations > 3
    expected, faults = read(whole), []
    points = seeded(name, 0).choices(range(operations), k=KILLS) if KILLS < operations else None
    for number, at in enumerate(points or range(operations)):
        out = tmp_path / f"cut{number}"
        killed, _ = run(name, tmp_path, out, at)
        code, _ = run(name, tmp_path, out)
        if killed != -9 or code or read(out) != expected or _left(out):
            faults.append((at, killed, code, [path.name for path in _left(out)]))
    print(f"{name}: {operations} operations, {len(points or range(operations))} kills,"
          f" {len(faults)} faults", file=sys.stderr)  # fmt: skip
    assert not faults, f"killed before operation, exit codes, what is left: {faults[:12]}"
