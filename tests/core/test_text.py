"""Cutting text into sentences, and long sentences into parts."""

from random import Random

import pytest

from wishbone.core.contract.sentences import MOST_CHARACTERS, sentences, speakable
from wishbone.core.contract.text import Tokenizer
from wishbone.core.speak.arriving_text import arriving


@pytest.mark.parametrize(
    "text, expected",
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Mr. Holmes met Dr. Watson. They left.", ["Mr. Holmes met Dr. Watson.", "They left."]),
        ("J. R. Smith came. So did I. We ate.", ["J. R. Smith came.", "So did I.", "We ate."]),
        ("It costs 3.50 now. Fine.", ["It costs 3.50 now.", "Fine."]),
        ("See No. 5. He said no. Then he went.", ["See No. 5.", "He said no.", "Then he went."]),
        ("He left at 5 p.m. and slept.", ["He left at 5 p.m. and slept."]),
        ('"Stop!" she said. "Why?"', ['"Stop!" she said.', '"Why?"']),
        ("(It rained.) We stayed.", ["(It rained.)", "We stayed."]),
        ("Well... perhaps. Yes", ["Well... perhaps.", "Yes"]),
        ("A title\n\nA line\nbroken in two", ["A title", "A line broken in two"]),
        ("你好。再见！", ["你好。", "再见！"]),
        ("e.g. Bach vs. Handel", ["e.g. Bach vs. Handel"]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_sentences(text, expected):
    assert list(sentences(text)) == expected


def test_pieces_do_not_matter():
    text = 'Dr. No said: "Go!" And? They went...\n\nNo. 5 stayed. 你好。好。 The end'
    random = Random(0)
    for _ in range(50):
        cuts = sorted(random.sample(range(len(text)), 9))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
        assert list(sentences(pieces)) == list(sentences(text))
    assert list(sentences(iter(text))) == list(sentences(text))


def test_a_sentence_is_given_out_before_the_text_ends():
    def arriving():
        yield "First one. Sec"
        raise RuntimeError("the rest never came")

    assert next(sentences(arriving())) == "First one."


def letters(text):
    return [ord(letter) for letter in text if letter.isalpha()]


def test_long_sentences_are_cut_at_commas_before_blanks():
    text = "one two three four, five six seven eight nine"
    parts = [part for part, _ in speakable(text, letters, most=20)]
    assert parts[0] == "one two three four,"
    assert " ".join(parts) == text


@pytest.mark.parametrize("text", ["word " * 2000, "x" * 10_000, "a, " * 3333, "é" * 500])
def test_ten_thousand_characters(text):
    asked = []

    def encode(part):
        asked.append(len(part))
        return letters(part)

    parts = list(speakable(text, encode, most=100))
    assert all(0 < len(ids) <= 100 for _, ids in parts)
    assert sum(len(ids) for _, ids in parts) == len(letters(text))
    assert max(asked) <= MOST_CHARACTERS


def test_what_cannot_be_spoken_is_left_out():
    assert list(speakable("... Hi! ???", letters)) == [("Hi!", letters("Hi"))]


def test_a_single_character_of_many_ids_is_not_cut():
    assert list(speakable("5", lambda text: [1] * 300 * len(text), most=9)) == [("5", [1] * 300)]


class Words(Tokenizer):
    """A tokenizer that is certain of all but the last word."""

    def encode(self, text):
        return [ord(letter) for letter in text]

    def decode(self, ids):
        return "".join(map(chr, ids))

    def settled(self, text):
        return max(text.rfind(" "), 0)


ARRIVING = "Hello there, Dr. Smith. How are you?  Fine\nthanks! ... Well. 今天好。明天呢？ An end"


def arrived(pieces):
    """Sentences that arrive, each read to its end."""
    return [sentence.text for sentence in arriving(pieces, Words()) if list(sentence) or True]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_sentences_that_arrive_are_those_of_the_whole(size):
    came = [ARRIVING[i : i + size] for i in range(0, len(ARRIVING), size)]
    said = []
    for sentence in arriving(came, Words()):
        assert [row for ids in sentence for row in ids] == sentence.ids
        assert sentence.ids == Words().encode(sentence.text)
        said.append(sentence.text)
    assert said == [part for part in sentences(ARRIVING) if any(map(str.isalnum, part))]


def test_ids_are_given_before_the_sentence_is_complete():
    taken = []

    def writer():
        for word in "one two three four five.".split():
            taken.append(word)
            yield f"{word} "

    sentence = next(arriving(writer(), Words()))
    first = next(iter(sentence))
    assert first == Words().encode("one") and taken == ["one", "two"]


def test_a_sentence_that_never_ends_goes_on_as_another():
    said = [
        (sentence.text, len(list(sentence)) > 0)
        for sentence in arriving(["word "] * 40, Words(), most=30)
    ]
    assert len(said) > 3 and all(given for _, given in said)
    # whatever the place of the cut, no blank is lost
    for most in range(20, 30):
        parts = []
        for sentence in arriving(["word "] * 40, Words(), most=most):
            assert list(sentence)
            parts.append(sentence.text)
        assert " ".join(parts).split() == ["word"] * 40


class Shouting(Words):
    """A tokenizer that breaks its word: what it gave out is not how the sentence begins."""

    def prepare(self, text):
        return text.strip().upper()


def test_what_was_given_out_is_not_taken_back():
    sentence = next(arriving(["one two three four. ", "Five"], Shouting()))
    for _ in sentence:
        pass
    assert sentence.text == "one two three FOUR."
    assert sentence.ids == Words().encode(sentence.text)


def test_a_text_without_stops_or_certainty_ends_at_a_blank():
    class Patient(Words):
        def settled(self, text):
            return 0

    said = []
    for sentence in arriving((f"word{n} " for n in range(200)), Patient()):
        for _ in sentence:
            pass
        said.append(sentence.text)
    assert max(map(len, said)) <= MOST_CHARACTERS + 10 and len(said) > 3
    assert " ".join(said).split() == [f"word{n}" for n in range(200)]


def test_letters_without_a_blank_are_not_cut_in_two():
    """There is no place for it: more of the word may come, and a stop behind it."""

    class Patient(Words):
        def settled(self, text):
            return 0

    letters = "abcdefghij" * (MOST_CHARACTERS // 5)
    assert len(letters) > MOST_CHARACTERS
    (sentence,) = arriving(iter([*letters, "."]), Patient())
    assert sentence.text == letters + "."


def test_a_sentence_that_is_not_read_is_passed_over():
    sentences_seen = list(arriving(["One two. ", "Three four."], Words()))
    assert [sentence.text for sentence in sentences_seen] == ["One two.", "Three four."]


@pytest.mark.parametrize(
    "joined",
    [
        "Plan B. | Then plan C. | Vitamin C. | Eat it.",
        "Hello! | How are you? | Fine. | Then go.",
        "We live on Washington St. | They live on Oak Dr. | Come.",
        "The U.S. Army left the U.S. | They won.",
        "Gov. Smith met Sen. Hill on Jan. 5 at St. Mary.",
        "See Vol. II and approx. 5 of Fig. 3, Roe v. Wade.",
        "A. A. Milne and George W. Bush spoke.",
        "It is 3.50. | See example.com/a.b. | Bye.",
    ],
)
def test_ends_that_only_their_neighbours_tell(joined):
    check_ends(joined.replace(" | ", " "), joined.split(" | "))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Hello!How are you?Fine.Then go.", ["Hello!", "How are you?", "Fine.", "Then go."]),
        ("1. One item\n2. Two\n3. Three items", ["1. One item", "2. Two", "3. Three items"]),
        ("Chapter One\nIt was a dark night.", ["Chapter One", "It was a dark night."]),
        ("- milk\n- eggs\n* tea", ["- milk", "- eggs", "* tea"]),
        ("one\u2029two", ["one", "two"]),
        ("a！！ b", ["a！！", "b"]),
    ],
)
def test_lines_and_blanks_that_are_missing(text, expected):
    check_ends(text, expected)


def check_ends(text, expected):
    assert list(sentences(text)) == expected
    assert list(sentences(iter(text))) == expected
    assert arrived(iter(text)) == expected


def test_splits_never_matter():
    random = Random(5)
    pieces = [
        "a",
        "！",
        "!",
        ".",
        " ",
        "\n",
        "B. ",
        "The ",
        "St. ",
        "5",
        '"',
        "…",
        "1. ",
        "no ",
        "\u2029",
        "- ",
    ]
    for _ in range(400):
        text = "".join(random.choice(pieces) for _ in range(14))
        cuts = sorted(random.sample(range(len(text) + 1), 4))
        split = [text[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
        complete = list(sentences([text]))
        assert list(sentences(split)) == complete == list(sentences(iter(text)))
        assert arrived(split) == [s for s in complete if any(map(str.isalnum, s))]


@pytest.mark.parametrize(
    "text",
    ["Ordinary words, then more. " * 20_000, "!" * 200_000, "." * 99_999, "! " * 99_999,
     "\n" * 200_000, "'" * 200_000, "a" * 200_000, "A. " * 40_000, "Mr. " * 40_000, "!)" * 90_000,
     "1.\n" * 40_000],
    ids=range(11),
)  # fmt: skip
@pytest.mark.timeout(20)
def test_time_is_linear(text):
    """A quadratic cut of these takes minutes and runs into the time limit."""
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())
    letters = text[:40_000]
    assert "".join("".join(sentences(iter(letters))).split()) == "".join(letters.split())
    last = ""
    for sentence in arriving([text], Words()):
        last = sentence.text
    assert last or not any(map(str.isalnum, text))


def test_an_end_of_a_piece_is_seen_at_once():
    def log():
        yield "line 1 of the log\n\u2029"
        raise RuntimeError("the next line never came")

    assert next(sentences(log())) == "line 1 of the log"
    assert next(arriving(log(), Words())).text == "line 1 of the log"


def test_no_time_and_no_number_is_cut_in_two():
    for token in ("10:30", "$1,250,000"):
        text = f"{'word ' * 30}at {token} and {'more ' * 30}"
        parts = [part for part, _ in speakable(text, letters, most=200)]
        assert len(parts) > 1 and any(token in part for part in parts)
