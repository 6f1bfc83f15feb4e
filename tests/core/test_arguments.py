"""Every command takes its words in any order and says usage errors in three lines."""

import pytest

from wishbone.core.cli.arguments import Parser
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
        whole.parse_args(["go", "n", "--cut"])
    assert caught.value.where == "wishbone try"
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
    from wishbone.core.data import speak, tokenize

    monkeypatch.setattr(speak, "speak", lambda *words, **how: seen.update(how))
    monkeypatch.setattr(tokenize, "tokenize", lambda *words, **how: seen.update(words=words))
    main(["data", "speak", "lines.txt", "--out", "D", "noise=0.5", "--set", "rate=2"])
    assert seen["overrides"] == ["rate=2", "noise=0.5"]
    main(["data", "tokenize", "--set", "a=b", "c=d", "SRC", "--out", "D", "--set", "e=f"])
    sources, out, _, changes = seen["words"]
    assert (sources, out, changes) == (["SRC"], "D", ["a=b", "e=f", "c=d"])
    odd = tmp_path / "rate=2"
    odd.mkdir()
    main(["data", "tokenize", "--set", "a=b", str(odd), "--out", "D"])
    assert seen["words"][0] == [str(odd)] and seen["words"][3] == ["a=b"]
    assert main(["data", "tokenize", "--set", "a=b", "c=d", "--out", "D"]) == 2
