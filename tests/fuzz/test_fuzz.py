"""Files that lie: three lines or a right value, never another exception, never a hang.

``WISHBONE_FUZZ=2000 python -m pytest tests/fuzz -s`` tries so many cases of each kind of file and
prints how many were read and how many refused. A case is the same on every machine: its number and
the name of its kind make its random numbers. With 1000 of each of 13 kinds there was no fault.
"""

import os
import shutil
import signal
from contextlib import contextmanager

import pytest
from mutators import seeded

from wishbone.core.contract.errors import WishboneError

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
pytest.importorskip("jinja2", reason="pip install 'wishbone-tts[ab]' for results")

from targets import TARGETS  # noqa: E402

CASES = int(os.environ.get("WISHBONE_FUZZ", 40))
SECONDS = 20
"""Most that one case may take; a usual one takes milliseconds."""


@contextmanager
def time_limit(case):
    def stop(number, frame):
        raise TimeoutError(f"{case} hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(name, number, folder):
    """ "read", "refused", or the fault of one case."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        with time_limit(f"{name} {number}"):
            return "read" if TARGETS[name](folder, seeded(name, number)) else "refused"
    except WishboneError as error:
        complete = error.what and error.where and error.do
        return "refused" if complete else f"{name} {number}: {error!r} has not three parts"
    except Exception as error:
        return f"{name} {number}: {type(error).__name__}: {error}"


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs an alarm signal")
@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_refused_or_right(name, tmp_path):
    outcomes = [outcome(name, number, tmp_path / "case") for number in range(CASES)]
    faults = [one for one in outcomes if one not in ("read", "refused")]
    print(f"{name}: {outcomes.count('read')} read, {outcomes.count('refused')} refused")
    assert not faults, f"{len(faults)} of {CASES}:\n" + "\n".join(faults[:12])
