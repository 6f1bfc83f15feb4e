"""Runs a file of tests with Triton's CPU interpreter, which a process must choose at its start."""

import os
import subprocess
import sys
from pathlib import Path


def interpret(file: str) -> None:
    """All tests of ``file`` beside this one pass, and none is skipped."""
    path = str(Path(__file__).with_name(file))
    call = [sys.executable, "-m", "pytest", "-x", "--show-capture=no", path]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    process = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=570)
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-2000:]
    assert "passed" in process.stdout and "skipped" not in process.stdout, process.stdout[-500:]
