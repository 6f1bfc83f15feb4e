"""Every command takes its words in any order and says usage errors in three lines.

Its options are a dataclass, whose fields make the parser, the help and the typed values.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from wishbone.core.cli.arguments import (
    EngineOptions,
    Parser,
    argument,
    option,
    parse,
    parse_subcommand,
)
from wishbone.core.cli.bundled import first_sentence
from wishbone.core.cli.main import main
from wishbone.core.contract.errors import UsageError
from wishbone.core.registry.loader import registry


def parser():
    made = Parser("wishbone try")
    made.add_argument("name")
    made.add_argument("words", nargs="*")
    made.add_argument("--out", required=True)
    made.add_argument("--flag", action="store_true")
    return made


@pytest.mark.parametrize(
    "argv",
    ["n a=1 b=2 --out D --flag", "n --flag a=1 --out D b=2", "--out D n --flag a=1 b=2"],
)
def test_words_may_stand_between_options(argv):
    options = parser().parse_args(argv.split())
    assert (options.name, options.words, options.out) == ("n", ["a=1", "b=2"], "D")
    assert options.flag
    # the way argparse offers is the same one
    assert parser().parse_intermixed_args(argv.split()) == options


def test_the_parser_of_the_library_refuses_them():
    import argparse

    plain = argparse.ArgumentParser(exit_on_error=False)
    plain.add_argument("name")
    plain.add_argument("words", nargs="*")
    plain.add_argument("--flag", action="store_true")
    assert plain.parse_known_args(["n", "--flag", "a=1"])[1] == ["a=1"]


def test_subparsers_mix_as_well():
    whole = Parser("wishbone try")
    inner = whole.add_subparsers(required=True, metavar="COMMAND").add_parser("go")
    inner.add_argument("name")
    inner.add_argument("words", nargs="*")
    inner.add_argument("--out")
    options = whole.parse_args(["go", "n", "--out", "D", "a=1"])
    assert (options.name, options.words, options.out) == ("n", ["a=1"], "D")
    with pytest.raises(UsageError, match="unrecognized") as caught:
        whole.parse_args(["go", "n", "--uot=D", "--cut"])
    assert caught.value.where == "wishbone try go"
    assert caught.value.do == "Did you mean '--out'? See 'wishbone try go --help'."
    with pytest.raises(UsageError) as caught:
        whole.parse_args(["go"])
    assert caught.value.where == "wishbone try go"


@pytest.mark.parametrize("name", registry().names("command"))
def test_usage_errors_are_three_lines_and_code_2(name, capsys):
    assert main([name, "--no-such-option"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "where", "do"]
    assert f"wishbone {name}" in lines[1] and "--help" in lines[2]


def test_speak_and_tokenize_take_changes_anywhere(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
    seen = {}
    from wishbone.core.data import shards, speak, tokenize

    def step(*words, **how):
        seen.update(words=words)
        return shards.ShardStep(print, [], tmp_path / "D", {})

    monkeypatch.setattr(speak, "speak_step", step)
    monkeypatch.setattr(tokenize, "tokenize_step", step)
    main(["data", "speak", "lines.txt", "--out", "D", "noise=0.5", "--set", "rate=2"])
    assert seen["words"][4] == ["rate=2", "noise=0.5"]
    main(["data", "tokenize", "--set", "a=b", "c=d", "SRC", "--out", "D", "--set", "e=f"])
    sources, out, _, changes = seen["words"]
    assert (sources, out, changes) == (["SRC"], "D", ["a=b", "e=f", "c=d"])
    odd = tmp_path / "rate=2"
    odd.mkdir()
    main(["data", "tokenize", "--set", "a=b", str(odd), "--out", "D"])
    assert seen["words"][0] == [str(odd)] and seen["words"][3] == ["a=b"]
    assert main(["data", "tokenize", "--set", "a=b", "c=d", "--out", "D"]) == 2


@dataclass(frozen=True, kw_only=True)
class TryOptions(EngineOptions):
    """Try something.

    With a second paragraph.
    """

    name: str | None = argument(None, help="who tries")
    words: list[str] = argument([], metavar="key=value", help="what else")
    out: Path = option(metavar="FILE", help="where it goes")
    times: int = option(3, "-n", metavar="N", help="how often", group="how much")
    share: float | None = option(None, help="how much, 1 is 100 %", group="how much")
    kind: str = option("a", choices=("a", "b"), help="of which kind")
    set: list[str] = option([], repeat=True, help="changes")
    folders: list[Path] = option([], help="places")
    dry_run: bool = option(False, "--dry", help="do nothing")


def help_of(options, capsys, *words, **how):
    with pytest.raises(SystemExit) as stop:
        parse(options, [*words, "--help"], "wishbone try", **how)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_fields_are_options_with_their_types():
    assert parse(TryOptions, ["--out", "x"], "wishbone try") == TryOptions(out=Path("x"))
    words = "me a=1 --out x -n 5 b=2 --share 0.5 --kind b --set k=1 --set l=2 --dry c=3"
    options = parse(TryOptions, [*words.split(), "--folders", "p", "q"], "wishbone try")
    assert options == TryOptions(
        name="me", words=["a=1", "b=2", "c=3"], out=Path("x"), times=5, share=0.5, kind="b",
        set=["k=1", "l=2"], folders=[Path("p"), Path("q")], dry_run=True,
    )  # fmt: skip
    with pytest.raises(UsageError, match="--out"):
        parse(TryOptions, ["me"], "wishbone try")
    for wrong in ("-n many", "--kind c", "--share much"):
        with pytest.raises(UsageError):
            parse(TryOptions, ["--out", "x", *wrong.split()], "wishbone try")


def test_lists_are_not_shared_between_calls():
    first = parse(TryOptions, ["--out", "x"], "wishbone try")
    first.set.append("k=1")
    first.words.append("k=1")
    second = parse(TryOptions, ["--out", "x", "--set", "l=2"], "wishbone try")
    assert (second.set, second.words) == (["l=2"], [])


def test_help_shows_defaults_groups_and_what_stands_behind_them(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    shown = help_of(TryOptions, capsys, epilogue=lambda: "examples:\n  wishbone try me")
    assert "Try something.\n\nWith a second paragraph." in shown
    assert "-n N, --times N" in shown and "how often (default: 3)" in shown
    assert "how much, 1 is 100 %\n" in shown
    assert "do nothing\n" in shown and "None" not in shown
    below = shown.partition("\n\n")[2]
    assert below.index("how much:") < below.index("--times N") < below.index("--engine NAME")
    assert shown.endswith("examples:\n  wishbone try me\n")


def test_an_epilogue_is_made_for_help_alone():
    def never():
        raise AssertionError

    parse(TryOptions, ["--out", "x"], "wishbone try", never)


def test_a_subcommand_gets_its_own_options_and_examples(capsys):
    @dataclass(frozen=True)
    class Stop:
        """Stop it."""

    examples = "examples:\n  wishbone try go me \\\n      --out x\n  wishbone try stop"
    subcommands = {"go": TryOptions, "stop": Stop}

    def run(*words):
        return parse_subcommand(
            words, "wishbone try", "Try.", subcommands, examples, {"far": "Go far."}
        )

    assert run("stop") == Stop()
    assert run("go", "me", "--out", "x", "a=1").words == ["a=1"]
    for words in (["--help"], ["go", "--help"]):
        with pytest.raises(SystemExit):
            run(*words)
    whole, below = capsys.readouterr().out.split("usage: wishbone try go")
    assert "Try something" in whole and "Stop it" in whole and "Go far" in whole
    assert below.endswith("examples:\n  wishbone try go me \\\n      --out x\n")
    with pytest.raises(UsageError) as caught:
        run("stop", "now")
    assert caught.value.where == "wishbone try stop"


CORE = [e.key for e in registry().of("command") if e.target.startswith("wishbone.core.")]


def test_help_of_every_command_has_examples_and_needs_nothing_heavy():
    code = f"""
import contextlib, io, sys
from wishbone.core.cli.main import main
for name in {[*CORE, "align"]!r}:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([name, "--help"])
    assert "example" in shown.getvalue(), name
    heavy = [m for m in ("torch", "omegaconf", "numpy") if m in sys.modules]
    assert not heavy, (name, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["train", "ab", "bench"])
def test_help_lists_every_bundled_file_with_a_sentence(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = capsys.readouterr().out
    files = sorted((Path(__file__).parents[2] / "configs" / name).glob("*.yaml"))
    assert files
    for file in files:
        (line,) = [line for line in shown.splitlines() if line.startswith(f"  {file.stem} ")]
        assert len(line.split()) > 3, line


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("about: One line.\narms: {}\n", "One line."),
        ("about: >-\n  It goes on\n  here, v1.5. And more.\narms: {}\n", "It goes on here, v1.5."),
        ("# Trains it:\n#   wishbone train x\nbase: y\n", "Trains it."),
        ("# Is it so? Yes.\nsteps: 5\n", "Is it so?"),
        ("base: other\nsteps: 5\n", "The same as other, with a few changes."),
    ],
)
def test_the_first_sentence_of_a_file(text, sentence):
    assert first_sentence(text) == sentence
