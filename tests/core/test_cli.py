"""The command table, and what a person sees when something is wrong."""

import errno
import io
import os
import signal
import subprocess
import sys
from importlib.util import find_spec

import pytest

from wishbone.core.cli import main
from wishbone.core.contract.errors import GateFailed, when_stopped
from wishbone.core.registry.loader import registry


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "wishbone", *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", registry().names("command"))
def test_every_command_leads_somewhere(name):
    assert find_spec(registry().entry("command", name).target.partition(":")[0]) is not None


def test_help_names_every_command(capsys):
    assert main.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in registry().names("command"))
    assert main.main([]) == 2


def test_help_is_in_a_newcomers_order_with_others_below(capsys, register):
    register("command", "acme/x", "acme:main", "wishbone-acme")
    main.main(["--help"])
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "]
    assert lines[:5] == ["say", "doctor", "ab", "train", "evaluate"]
    assert lines.index("convert") < lines.index("codec-train") < lines.index("acme/x")


def test_an_unknown_command_is_three_lines():
    done = run("sya", "hello")
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "where", "do"]
    assert "'say'" in lines[2]


def test_exit_codes_and_lines_of_every_error(capsys, monkeypatch):
    import wishbone.core.cli.doctor as doctor

    def fail(argv):
        raise GateFailed("three checks failed", "rwkv7", "repair it")

    monkeypatch.setattr(doctor, "main", fail)
    assert main.main(["doctor"]) == 4
    shown = capsys.readouterr().err
    assert shown == "error: three checks failed\nwhere: rwkv7\ndo: repair it\n"
    assert main.main(["doctor", "--traceback"]) == 4
    assert "Traceback" in capsys.readouterr().err


def test_an_unforeseen_error_is_three_lines_too(capsys, monkeypatch):
    import wishbone.core.cli.doctor as doctor

    monkeypatch.setattr(doctor, "main", lambda argv: 1 / 0)
    assert main.main(["doctor"]) == 5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "ZeroDivisionError" in lines[0] and "test_cli.py" in lines[1]


def test_a_stopped_command_says_so(capsys, monkeypatch):
    import wishbone.core.cli.doctor as doctor

    def stop(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "main", stop)
    assert main.main(["doctor"]) == 130


@pytest.mark.parametrize("words", [["--help"], ["plugins", "list"], ["train", "--nothing"]])
def test_light_commands_stay_light(words):
    code = (
        f"import sys; from wishbone.core.cli.main import main; main({words!r}); "
        "heavy = [m for m in ('torch', 'omegaconf', 'numpy') if m in sys.modules]; "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = os.times()
    spent = after.children_user + after.children_system
    # processor time, which a busy machine hardly changes: a tenth of a second when nothing is amiss
    assert spent - before.children_user - before.children_system < 1.0


def ended(words, **streams):
    """Exit code and standard error of a command whose other streams are ``streams``."""
    command = [sys.executable, "-m", "wishbone", *words]
    process = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **streams)
    return process.returncode, process.stderr


def test_a_reader_that_goes_away_ends_it_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        assert ended(["plugins", "list"], stdout=pipe) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_three_lines():
    with open("/dev/full", "wb") as full:
        code, said = ended(["plugins", "list"], stdout=full)
    assert code == 5 and said.startswith("error: There is no space left: No space left on device.")
    assert len(said.splitlines()) == 3


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.wav"), 5, "no space left"),
        (PermissionError(errno.EACCES, "Permission denied", "a.wav"), 2, "may not be"),
        (OSError(errno.EROFS, "Read-only file system", "a.wav"), 2, "only be read"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", ".a.1.tmp", None, "a.wav"), 2, "folder"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a.wav"), 2, "too long"),
    ],
)
def test_errors_of_the_system_are_three_lines(error, code, said, capsys, monkeypatch):
    import wishbone.core.cli.doctor as doctor

    def fail(argv):
        raise error

    monkeypatch.setattr(doctor, "main", fail)
    assert main.main(["doctor"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[0] and lines[1] == "where: a.wav" and lines[2].startswith("do: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_end_it_with_130_and_what_is_left(number, capsys, monkeypatch):
    import wishbone.core.cli.doctor as doctor

    def stop(argv):
        with when_stopped(lambda: "2 of 3 are done; the same command goes on"):
            signal.raise_signal(number)

    monkeypatch.setattr(doctor, "main", stop)
    # a job that a shell runs in the background ignores Ctrl-C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    code = main.main(["doctor"])
    signal.signal(signal.SIGINT, before)
    assert code == 130
    assert capsys.readouterr().err == "stopped: 2 of 3 are done; the same command goes on\n"


@pytest.mark.parametrize("more", [[], ["--stream"]])
def test_standard_input_that_is_closed_or_no_text_is_three_lines(more, capsys, monkeypatch):
    words = ["say", "-", "-o", "-", *more]
    monkeypatch.setattr("sys.stdin", None)
    assert main.main(words) == 2
    assert "Standard input is closed" in capsys.readouterr().err
    if not more:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ncaf\xe9\n")))
        assert main.main(words) == 2
        said = capsys.readouterr().err
        assert "not UTF-8: byte 0xe9" in said and "standard input:2" in said
