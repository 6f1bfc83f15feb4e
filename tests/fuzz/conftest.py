"""Fuzzers share the tiny systems and corpora of the tests of core."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from test_data_align import like, voice  # noqa: E402, F401
from test_data_speak import system  # noqa: E402, F401
