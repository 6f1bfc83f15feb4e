"""Fuzzers share the tiny systems and corpora of the tests of core."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))
