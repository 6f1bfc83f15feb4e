"""The normaliser: the table of what is written and said, and what must not change."""

import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import spoken_table

from wishbone.core.cli.main import main
from wishbone.plugins.phonemes import tokenizer as module
from wishbone.plugins.phonemes.normalise import left_out, normalise
from wishbone.plugins.phonemes.tokenizer import PhonemeTokenizer

PROMPTS = Path(__file__).parents[2] / "configs/ab/prompts-en.txt"


def test_every_kind_is_read_right():
    for kind, (right, total, wrong) in spoken_table.rates(normalise).items():
        assert right >= 0.95 * total or len(wrong) == 1, (kind, wrong)


def test_words_are_said_as_they_are():
    for _, written, _ in spoken_table.rows():
        words = normalise(written)
        assert normalise(words) == words


def test_ids_of_ordinary_text_are_those_of_gruut_alone(monkeypatch):
    import gruut

    lines = PROMPTS.read_text(encoding="utf-8").split("\n")[:25]
    lines += [
        "It is 5 and 123 more.",
        "In 1945 there were 2007 of them, or 12.",
        "Mr. Fox met Mrs. Hill.",
    ]
    now = [PhonemeTokenizer().encode(line) for line in lines]
    monkeypatch.setattr(module, "_front_end", lambda: gruut.sentences)
    monkeypatch.setattr(module, "normalise", lambda text: text)
    assert now == [PhonemeTokenizer().encode(line) for line in lines]


def test_the_locale_changes_nothing():
    code = (
        "from wishbone.plugins.phonemes.tokenizer import PhonemeTokenizer as P;"
        "print(P().encode('It costs $10, or 5 km on 3/4/2021.'))"
    )
    text = "It costs $10, or 5 km on 3/4/2021."
    for locale in ("en_GB.UTF-8", "xx_XX"):
        environment = os.environ | {"LC_ALL": locale, "LANG": locale, "LANGUAGE": locale}
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == str(PhonemeTokenizer().encode(text))


@pytest.mark.parametrize("text", ["q" * 10_000, "9" * 10_000, "." * 10_000, "http://" * 1400])
@pytest.mark.timeout(60)
def test_long_runs_are_spelt(text):
    tokenizer = PhonemeTokenizer()
    count = sum(len(ids) for _, ids in tokenizer.pieces(text))
    assert count or not any(map(str.isalnum, text))


def test_what_nobody_says_is_named(capsys):
    assert left_out("Привет, he said, and 你好 😀 again 你好.") == ["Привет", "你好", "😀"]
    assert not left_out("naïve ½ 5°C “x” 𝐇𝐞 — …")
    assert main(["say", "--normalise-only", "你好 Dr. Fox paid $5."]) == 0
    printed = capsys.readouterr()
    assert printed.out == "Doctor Fox paid five dollars.\n" and "你好" in printed.err


ODD = (
    "Mon|$|5|10/|1/2|Act |II |I |IC|M|@|#|http://|.com|-|x|'| |\"|½|²|⁻³|^|√|π|°C|km|/h|a.m.|12:30"
    "|+1|(555)|0|00|Rs.|€|1,|000|.|St|Dr|Jan|'99|e5|<|>|=|~|&amp;|*|_|①|Mr|no.|call |911|in|\n|1)"
    "|a)|[x]|---|№|Louis |World War |ext|each |bill|text A to |Mark V|10-5=|03-15-2024|2024/99/99"
    "|31/31/2020|99:99|1e999|%|‰|Ω|h|hrs|2500h|Part |i"
).split("|")


def test_no_mixture_of_what_rules_look_for_raises():
    random = Random(2)
    for _ in range(2500):
        text = "".join(random.choices(ODD, k=random.randint(1, 7)))
        assert not re.search(r"\d", normalise(text)), text
