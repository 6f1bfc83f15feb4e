"""The front ends: what they say, and that no text makes them raise."""

import random

import pytest

from wishbone.plugins.phonemes import tokenizer as module
from wishbone.plugins.phonemes.characters import CharacterTokenizer
from wishbone.plugins.phonemes.symbols import CONSONANTS, SEPARATORS, SYMBOLS, VOWELS
from wishbone.plugins.phonemes.tokenizer import PhonemeTokenizer, Word

ODD = [
    "", "   ", "\n\n", "!?", "...", "'", '""', "--", "😀", "日本語", "\x00\x01", "\ud800 word",
    "9" * 400, "$1e400", "99/99/9999 13:75", "1.2.3.4", "x" * 500, "<b>&amp;</b>", "a\u0301",
    "<|endofprompt|>", "$$$ %%% @@@", "http://example.org/a?b=c#d", "½ № ™ ²", "a" + " b" * 50,
    "(((", "]]>", "\t\r\n", "'" * 50, "-5e-5", "#1", "IV.",
]  # fmt: skip


@pytest.fixture(scope="module")
def phonemes():
    return PhonemeTokenizer()


def spoken(tokenizer, text):
    """The phonemes of each word without stress, as strings."""
    return ["".join(p.lstrip("ˈˌ") for p in word.phonemes) for word in tokenizer.words(text)]


def test_the_alphabet_is_fixed():
    """Trained tables depend on it: symbols may be appended, never moved."""
    assert len(SYMBOLS) == len(set(SYMBOLS)) == 79
    assert SYMBOLS[0] == "<pad>" and SYMBOLS[1:4] == ("ɪ", "ˈɪ", "ˌɪ")
    assert SYMBOLS[49] == "p" and SYMBOLS[72] == "w"
    assert SYMBOLS[73:78] == (" ", ",", ".", "?", "!") and SYMBOLS[78] == "<|endofprompt|>"


def test_the_space_describes_the_ids(phonemes):
    assert phonemes.space.vocabulary == 79
    assert phonemes.space.word_ends == frozenset(range(73, 78))
    assert phonemes.space.specials == {"<|endofprompt|>": 78}


def test_words_have_phonemes_stress_and_one_separator(phonemes):
    words = phonemes.words("Hello, is the world round?")
    assert [word.spelling for word in words] == ["Hello", "is", "the", "world", "round"]
    assert [word.separator for word in words] == [",", " ", " ", " ", "?"]
    assert words[0].phonemes == ("h", "ɛ", "l", "ˈoʊ")
    # function words carry no stress
    assert words[1].phonemes == ("ɪ", "z")


def test_each_word_ends_with_exactly_one_separator(phonemes):
    for text in ("One, two; three - four: five!", 'He said: "Stop!" and (then) left...'):
        ids = phonemes.encode(text)
        count = sum(i in phonemes.space.word_ends for i in ids)
        assert count == len(phonemes.words(text))
        assert ids[-1] in phonemes.space.word_ends
        assert not any(
            {a, b} <= phonemes.space.word_ends for a, b in zip(ids, ids[1:], strict=False)
        )


def test_text_that_ends_without_a_mark_is_closed(phonemes):
    assert phonemes.words("no mark")[-1].separator == "."
    assert phonemes.words("no mark,")[-1].separator == "."


@pytest.mark.parametrize(
    "text, said",
    [
        ("$3.50", "three dollars fifty cents"),
        ("Dr. Smith", "doctor Smith"),
        ("the 3rd", "the third"),
        ("1990s", "nineteen nineties"),
        ("3/4", "three quarters"),
        ("1.2.3.4", "one dot two dot three dot four"),
        ("naïve résumé", "naive resume"),
        ("don’t — “stop”", 'don\'t, "stop"'),
        ("ﬁne", "fine"),
    ],
)
def test_what_is_not_a_word_is_read_as_words(phonemes, text, said):
    assert spoken(phonemes, text) == spoken(phonemes, said)


def test_unknown_words_come_out(phonemes):
    for word in ("blorptastic", "Wishbonian", "qzx"):
        assert phonemes.encode(word)


def test_numbers_that_break_the_front_end_are_read_digit_by_digit(phonemes):
    assert len(phonemes.words("It is " + "7" * 400 + " miles")) == 403


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_no_text_raises(phonemes, text):
    for tokenizer in (phonemes, CharacterTokenizer()):
        ids = tokenizer.encode(text)
        assert all(0 < i < tokenizer.space.vocabulary for i in ids)
        assert isinstance(tokenizer.decode(ids), str)


def test_random_text_never_raises(phonemes):
    draw = random.Random(1)
    alphabet = "abc ABC.,;:!?'\"-()[]<>&%$#@*/\\|~^_+=0123456789 \n\té“–日"
    for _ in range(60):
        text = "".join(draw.choice(alphabet) for _ in range(draw.randint(1, 40)))
        for tokenizer in (phonemes, CharacterTokenizer()):
            ids = tokenizer.encode(text)
            assert all(0 < i < tokenizer.space.vocabulary for i in ids), text


@pytest.mark.parametrize(
    "text",
    ["aB3" * 60, "1-" * 60, "a1 " * 60, "192.168.1.1 or $5.30, 1945! 555-123-4567? " * 2,
     "Read 1 2 3 4 5 6 7 8 9 10 11 12, and live."],
)  # fmt: skip
def test_figures_one_by_one_are_what_gruut_reads_as_a_whole(phonemes, monkeypatch, text):
    fast = phonemes.encode(text)
    monkeypatch.setattr(module, "MANY", 10**9)
    assert fast == phonemes.encode(text)


def test_a_front_end_that_always_fails_leaves_silence(monkeypatch):
    def fail(text, lang):
        raise RuntimeError("no")

    monkeypatch.setattr(module, "_front_end", lambda: fail)
    assert PhonemeTokenizer().encode("Hello 5.") == []


def test_words_of_a_corpus_and_text_give_the_same_ids(phonemes):
    text = "A plain sentence, nothing more."
    assert phonemes.encode_words(phonemes.words(text)) == phonemes.encode(text)


def test_unknown_phonemes_and_separators_keep_the_count_of_words(phonemes):
    ids = phonemes.encode_words([Word("x", ("ʘ", "ˈp"), ";"), Word("y", (), ".")])
    assert ids == [SYMBOLS.index("p"), SYMBOLS.index(" "), SYMBOLS.index(".")]


def test_the_marker_becomes_one_id(phonemes):
    for tokenizer in (phonemes, CharacterTokenizer()):
        ids = tokenizer.encode("Slowly.<|endofprompt|>Go")
        assert ids.count(tokenizer.space.specials["<|endofprompt|>"]) == 1
        assert "<|endofprompt|>" in tokenizer.decode(ids)


def test_decoding_shows_phonemes(phonemes):
    assert phonemes.decode(phonemes.encode("Go!")) == "ɡˈoʊ!"
    assert phonemes.decode([0, 1000, -1]) == "\ufffd" * 3


def test_the_lexicon_knows_no_other_phoneme(phonemes):
    known = set(VOWELS) | set(CONSONANTS)
    words = phonemes.words("The quick brown fox jumps over the lazy dog, joyful azure thing.")
    assert {p.lstrip("ˈˌ") for word in words for p in word.phonemes} <= known


def test_characters_are_letters_with_one_separator_after_each_word():
    tokenizer = CharacterTokenizer()
    text = "Don’t  stop -- now?!  It's Ünïcode, 42"
    assert tokenizer.decode(tokenizer.encode(text)) == "don't stop now?it's unicode,42."
    assert all(mark in SEPARATORS for mark in (" ", "?", ",", "."))
    assert tokenizer.encode("!?") == []


def test_a_morning_is_no_article(phonemes):
    said = phonemes.decode(phonemes.encode("It begins at 9 a.m. sharp."))
    assert "ˈeɪ ˈɛm" in said
    assert phonemes.encode("What am I?") == phonemes.encode("what am i?")
