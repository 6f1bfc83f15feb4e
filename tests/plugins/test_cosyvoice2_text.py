"""From text to ids as CosyVoice2 does it: its tokenizer, its front end, and what is mended."""

import json
import random

import pytest
from cosyvoice2_release import PROSE, write_text

from wishbone.core.contract.errors import CheckpointError, ConfigError, MissingExtra
from wishbone.core.speak.arriving_text import arriving
from wishbone.plugins.cosyvoice2 import frontend
from wishbone.plugins.cosyvoice2.frontend import FrontEnd, cut, language_of
from wishbone.plugins.cosyvoice2.marks import SECOND as MARKS
from wishbone.plugins.cosyvoice2.numbers import spell
from wishbone.plugins.cosyvoice2.tokenizer import CosyVoice2Tokenizer

pytest.importorskip(
    "tokenizers", reason="the text tokenizer: pip install 'wishbone-tts[cosyvoice2]'"
)

TEXTS = [
    PROSE,
    "It's 3.14 -- isn't it?\n\n  Two  blanks, a\ttab. naïve café ÅÉ",
    "他说[laughter]：“好！”<strong>真的</strong>吗？<|endofprompt|>x[breath]",
    "日本語のテキスト、한국어, Привет! 🙂 <|im_start|>",
    "",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("release")
    rows = write_text(path / "CosyVoice-BlankEN")
    (path / "CosyVoice-BlankEN" / "config.json").write_text(json.dumps({"vocab_size": rows}))
    return path


def tokenizer(folder=None, **fields):
    config = CosyVoice2Tokenizer.Config(release=str(folder) if folder else None, **fields)
    return CosyVoice2Tokenizer(config)


def test_ids_follow_from_the_files(folder):
    part = tokenizer(folder)
    base = len(json.loads((folder / "CosyVoice-BlankEN" / "vocab.json").read_text()))
    assert [part.space.specials[mark] for mark in MARKS] == list(range(base, base + len(MARKS)))
    assert part.encode("[laughter]") == [part.space.specials["[laughter]"]]
    assert part.space.vocabulary == base + 32


def test_it_is_the_tokenizer_of_transformers(folder):
    transformers = pytest.importorskip(
        "transformers", reason="compares with Qwen2's tokenizer: pip install transformers"
    )
    reference = transformers.Qwen2Tokenizer.from_pretrained(str(folder / "CosyVoice-BlankEN"))
    reference.add_special_tokens({"additional_special_tokens": list(MARKS[1:])})
    ours = tokenizer(folder)
    for text in TEXTS:
        assert ours.encode(text) == reference(text)["input_ids"], text


def test_text_comes_back(folder):
    part = tokenizer(folder)
    for text in TEXTS:
        assert part.decode(part.encode(text)) == text
    assert part.decode([part.space.vocabulary - 1]) == ""


def test_one_file_of_a_tokenizer_is_read_too(folder, tmp_path):
    write_text(tmp_path / "CosyVoice-BlankEN", complete=True)
    complete = tokenizer(tmp_path)
    assert complete.encode(PROSE) == tokenizer(folder).encode(PROSE)
    assert complete.space.specials == tokenizer(folder).space.specials


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / "vocab.json").unlink(), "no vocab.json"),
        (lambda f: (f / "vocab.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "tokenizer_config.json").write_text("[1"), "cannot be read"),
        (lambda f: (f / "config.json").write_text('{"vocab_size": 9}'), "9 rows"),
        (
            lambda f: (f / "added_tokens.json").write_text('{"<|tool|>": 9000}'),
            "gives '<|tool|>' the id 9000",
        ),
    ],
)
def test_files_that_contradict_each_other(tmp_path, spoil, message):
    write_text(tmp_path / "CosyVoice-BlankEN")
    spoil(tmp_path / "CosyVoice-BlankEN")
    with pytest.raises(CheckpointError, match=message):
        tokenizer(tmp_path)


def test_without_a_release_it_has_a_size_only():
    part = tokenizer(rows=99)
    assert part.space.vocabulary == 99
    with pytest.raises(ConfigError, match="names no release"):
        part.encode("hello")


def test_ids_may_be_known_before_the_text_is(folder):
    """However a text is cut, what is certain has the ids it has in the whole."""
    part, dice = tokenizer(folder), random.Random(0)
    for text in TEXTS[:4]:
        text = " ".join(text.split())
        for _ in range(60):
            prefix = text[: dice.randrange(len(text) + 1)]
            sure = part.settled(prefix)
            assert part.encode(text[:sure]) + part.encode(text[sure:]) == part.encode(text)
    as_written = tokenizer(folder, normaliser="none")
    assert as_written.settled("one two thr") == len("one two")
    assert as_written.settled("well [laugh") <= len("well")
    assert as_written.settled("well [laughter] then") == len("well [laughter]")
    # two words more are held where a normaliser may still join them with what comes
    assert part.settled("one two three four") == len("one two")
    assert part.settled("on the 4 M") == 0 and part.settled("we met on the 4 of May") == len(
        "we met"
    )


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_sentences_that_arrive_have_the_ids_of_whole_ones(folder, size):
    part = tokenizer(folder)
    text = "The quick brown fox, it jumps! And [laughter] then?  We went there.\n\nAnd back"
    texts = []
    for sentence in arriving([text[i : i + size] for i in range(0, len(text), size)], part):
        assert [row for ids in sentence for row in ids] == part.encode(sentence.text)
        texts.append(sentence.text)
    assert texts == [
        "The quick brown fox, it jumps!", "And [laughter] then?", "We went there.", "And back.",
    ]  # fmt: skip


WRITTEN = [
    "We met on May 5th, at 3:30 p.m. or so, and 1,234 people came.",
    "It cost $1.01 (or £0.99), which is 3.14 times as much as in 1998!",
    "In the spring of 2020 he ran 5 km, then 10 more; then he slept. Dr. Smith said no. 7 was it.",
    "Well, [laughter] I have <strong>25</strong> of them, don't I?",
    "Hello my dear 我有25个苹果，[breath] 你呢？ And we have 3",
    "今天是2024年5月1日，气温25.5度。我们走了1,234米",
    "Привет, у меня 25 яблок. And 3 here",
    "The NASA of the US sent a well-known 'probe' to Mars in 12 days - and back",
    '"No!" he said, and left at 10. ... (5) Then nobody spoke of it any more',
]


@pytest.mark.parametrize("normaliser", ["builtin", "wetext", "none"])
@pytest.mark.parametrize("size", [1, 3, 17, 1000])
@pytest.mark.parametrize("text", WRITTEN)
def test_text_that_arrives_is_normalised_as_the_whole(folder, text, size, normaliser):
    if normaliser == "wetext":
        pytest.importorskip("wetext", reason="pip install 'wishbone-tts[cosyvoice2]'")
    part = tokenizer(folder, normaliser=normaliser)
    complete = list(part.pieces(iter([text])))
    came = arriving([text[i : i + size] for i in range(0, len(text), size)], part)
    joined = [(s, [row for ids in s for row in ids]) for s in came]
    assert [(s.text, ids) for s, ids in joined] == complete
    spoken = "".join(piece for piece, _ in complete)
    assert spoken != text.replace("  ", " ") or normaliser == "none"


def test_plain_words_do_not_wait_for_the_end_of_a_sentence(folder):
    """And words around a number do."""
    part = tokenizer(folder)
    came = "Please tell me why they came on the 4 of July with us. So"
    words = [part.decode(ids) for ids in next(arriving(came, part))]
    assert words[:6] == ["Please", " tell", " me", " why", " they", " came"]
    assert words[6:] in ([" on the four of July with us."], [" on the fourth of July with us."])


def test_normalising_what_arrives_word_by_word_would_be_noticed(folder, monkeypatch):
    part, text = tokenizer(folder, normaliser="builtin"), WRITTEN[1]
    monkeypatch.setattr(part._front, "unchanged", len)
    came = arriving([f"{word} " for word in text.split()], part)
    assert [s.text for s in came] != [piece for piece, _ in part.pieces(iter([text]))]


def test_numbers_without_end_are_not_awaited(folder):
    part = tokenizer(folder, normaliser="builtin")
    sentences = []
    came = (f"{number} " for number in range(2000))
    for sentence, _ in zip(arriving(came, part), range(3), strict=False):
        sentences += ["".join(map(part.decode, sentence))]
    assert all(400 < len(piece) < 4000 for piece in sentences)
    assert "".join(sentences[:2]).startswith("zero one two three") and next(came)


@pytest.mark.parametrize(
    "text, spoken",
    [
        ("3.14", "three point one four"),
        ("1,234", "one thousand two hundred thirty-four"),
        ("$1.01", "one dollar and one cent"),
        ("£0.99", "ninety-nine pence"),
        ("$3 million", "three million dollars"),
        ("on 2024-12-16", "on December sixteenth, twenty twenty-four"),
        ("In 1905", "In nineteen oh five"),
        ("at 10:30 am.", "at ten thirty AM."),
        ("at 8:00", "at eight o'clock"),
        ("the 21st", "the twenty-first"),
        ("the 27101st", "the twenty-seven thousand one hundred first"),
        ("-5 and 25%", "minus five and twenty-five percent"),
        ("40°C, 1 km, 2 kg", "forty degrees Celsius, one kilometer, two kilograms"),
        ("v2.0", "v two point zero"),
        ("v1.2.3", "v one point two point three"),
        ("in the 1980s", "in the nineteen eighties"),
        ("$1,234.56", "one thousand two hundred thirty-four dollars and fifty-six cents"),
        ("1-10 in 1990-1995", "one to ten in nineteen ninety to nineteen ninety-five"),
        ("12345678901234567890", " ".join("one two three four five six seven eight nine zero"
                                          .split() * 2)),
    ],
)  # fmt: skip
def test_numbers_in_english(text, spoken):
    assert spell(text, "en") == spoken


@pytest.mark.parametrize(
    "text, spoken",
    [
        ("10", "十"), ("101", "一百零一"), ("110", "一百一十"), ("1010", "一千零一十"),
        ("10001", "一万零一"), ("100010000", "一亿零一万"), ("-3.5℃", "负三点五摄氏度"),
        ("2024年12月", "二零二四年十二月"), ("2024-12-06", "二零二四年十二月六日"),
        ("10:05", "十点零五分"), ("8:00", "八点整"), ("￥3.50", "三点五零元"),
        ("$5万", "五万美元"), ("25%", "百分之二十五"), ("3/4", "四分之三"),
        ("1-10", "一到十"), ("第1-10页", "第一到十页"),
        ("13812345678", "幺三八幺二三四五六七八"), ("1,234", "一千二百三十四"),
    ],
)  # fmt: skip
def test_numbers_in_chinese(text, spoken):
    assert spell(text, "zh") == spoken


def words(text):
    return text.split()


def pieces(text, **fields):
    settings = {"normaliser": "builtin", "most": 80, "least": 60, "merge": 20} | fields
    return list(FrontEnd(**settings).pieces(text, words))


@pytest.mark.parametrize(
    "text, spoken",
    [
        # a point inside a number or a name ends nothing, in either language
        ("圆周率是3.14", ["圆周率是三点一四。"]),
        ("看a.com吧", ["看a.com吧。"]),
        ("Dr. Smith paid $3.50.", ["Dr. Smith paid three dollars and fifty cents."]),
        # a dash between blanks is a pause; upstream removes the blanks first
        ("上海 - 北京", ["上海，北京。"]),
        ("第一行\n第二行", ["第一行，第二行。"]),
        ("用 Python 写", ["用Python写。"]),
        ("他走了，，", ["他走了。"]),
        # upstream fails on what is empty once brackets are gone
        ("（）", []),
        ("... !", []),
        # marks are left alone, and the text around them is still normalised
        ("<|endofprompt|>他[laughter]有3只", ["<|endofprompt|>他[laughter]有三只。"]),
        # numbers are spelled in the language that was asked for or not at all
        ("日本の2024年です", ["日本の2024年です。"]),
        ("У меня 2 кота", ["У меня 2 кота."]),
        ("hi\nthere", ["hi there."]),
        ("One.\n\nTwo.", ["One.", "Two."]),
    ],
)
def test_pieces_as_they_are_spoken(text, spoken):
    assert pieces(text) == spoken


def test_a_long_text_is_packed_evenly_and_loses_nothing():
    text = "今天天气真好，我们去公园玩吧。" * 20
    parts = pieces(text)
    assert "".join(parts) == text and all(60 < len(part) <= 90 for part in parts)
    text = "one two three four five six seven eight. " * 30
    assert " ".join(pieces(text)) == text.strip()
    assert all(60 < len(part.split()) <= 100 for part in pieces(text))


def test_a_sentence_without_stops_is_cut_at_a_comma():
    """Upstream hands on any length, and the model loses its way."""
    parts = pieces("今天天气真好，我们去公园玩吧，" * 40)
    assert max(map(len, parts)) <= 160 and all(part.endswith(("，", "。")) for part in parts)


def test_text_that_arrives_is_spoken_by_sentence():
    text = "We went there. And then we came back! Did 2 of us?"
    for size in (1, 5, 100):
        came = pieces(text[i : i + size] for i in range(0, len(text), size))
        assert came == ["We went there.", "And then we came back!", "Did two of us?"]


def test_a_quote_stays_with_its_sentence():
    assert cut("他说：“好。”走了。", "zh") == ["他说：", "“好。”", "走了。"]
    assert cut('He said "no!" Then v2.0 came, e.g. by 10:30.', "en") == [
        'He said "no!"', " Then v2.0 came, e.g. by 10:30.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text, language",
    [("hello", "en"), ("12", "en"), ("你好 world", "zh"), ("こんにちは世界", ""), ("Привет", "")],
)
def test_languages(text, language):
    assert language_of(text) == language


def test_wetext_is_used_where_it_is(monkeypatch):
    pytest.importorskip("wetext", reason="the normaliser: pip install 'wishbone-tts[cosyvoice2]'")
    text = "今天是2024年，这儿25%。"
    assert (
        pieces(text, normaliser="wetext")
        == pieces(text)
        == ["今天是二零二四年，这儿百分之二十五。"]
    )
    assert pieces("...！？", normaliser="wetext") == []
    monkeypatch.setattr(frontend, "_wetext", lambda language: None)
    assert pieces(text, normaliser="auto") == pieces(text)
    with pytest.raises(MissingExtra, match="wetext"):
        pieces(text, normaliser="wetext")


def test_nothing_is_touched_when_nobody_shall():
    assert pieces("有3只", normaliser="none") == ["有3只。"]


@pytest.mark.parametrize("fields", [{"normaliser": "magic"}, {"least": 90}, {"merge": -1}])
def test_settings_that_make_no_sense(fields):
    with pytest.raises(ConfigError):
        pieces("x", **fields)
