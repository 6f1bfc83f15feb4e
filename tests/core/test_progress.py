"""Progress: a bar in a terminal, lines in a log, and lines in a terminal without rich."""

import io
import sys

import pytest

from wishbone.core.report import progress as module
from wishbone.core.report.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    return stream


def test_a_terminal_without_rich_gets_lines(monkeypatch):
    terminal = a_terminal(monkeypatch)
    monkeypatch.setitem(sys.modules, "rich.progress", None)  # importing it fails
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "rich" else 1)
    assert list(progress([1, 2, 3], "speaking")) == [1, 2, 3]
    assert terminal.getvalue().splitlines()[-1].startswith("speaking: 3/3, ")


def test_a_terminal_with_rich_gets_a_bar(monkeypatch):
    pytest.importorskip("rich", reason="the extra 'ab' is not installed")
    terminal = a_terminal(monkeypatch)
    assert list(progress([1, 2, 3], "speaking")) == [1, 2, 3]
    assert "3/3" in terminal.getvalue() and "speaking:" not in terminal.getvalue()


def test_a_log_gets_lines_with_the_time_that_is_left(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    monkeypatch.setattr(module, "EVERY", -1.0)
    assert list(progress("abc", "speaking")) == ["a", "b", "c"]
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3 and lines[0].startswith("speaking: 1/3") and "left" in lines[0]
