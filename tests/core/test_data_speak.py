"""Making audio and tokens: resume, reports, odd recordings, no overwriting."""

from dataclasses import dataclass

import pytest
import soundfile
import torch

from wishbone.core.contract.errors import ConfigError, DataError, UsageError
from wishbone.core.contract.extensions.teacher import Spoken, Word

parquet = pytest.importorskip(
    "pyarrow.parquet", reason="pip install 'wishbone-tts[train]' for corpora"
)

from wishbone.core.cli.data import main  # noqa: E402
from wishbone.core.data import speak as speaking  # noqa: E402
from wishbone.core.data.shards import gathered  # noqa: E402
from wishbone.core.data.tokens import read_tokens  # noqa: E402
from wishbone.core.weights.tensor_files import write_tensors  # noqa: E402
from wishbone.plugins.fsqcodec.tokenizer import FSQCodecTokenizer  # noqa: E402


class FrontEnd:
    def words(self, text):
        return [Word(word, tuple(word), " ") for word in text.split() if word.isalpha()]


class Teacher:
    """A quarter of a second of tone a word; refuses one word and fails on another."""

    @dataclass
    class Config:
        loud: float = 0.5

    def __init__(self):
        self.config = self.Config()
        self.spoken = []

    def speak(self, words):
        spellings = [word.spelling for word in words]
        self.spoken.append(spellings)
        if "forbidden" in spellings:
            raise DataError("unknown phoneme")
        if "broken" in spellings:
            raise ValueError("no")
        ends = [0.25 * (n + 1) for n in range(len(words))]
        time = torch.arange(int(22_050 * ends[-1])) / 22_050
        return Spoken(0.5 * torch.sin(1000 * time), 22_050, ends)


@pytest.fixture
def teacher(monkeypatch):
    teacher = Teacher()
    monkeypatch.setattr(speaking, "_parts", lambda *names: (FrontEnd(), teacher))
    return teacher


def lines(folder, *texts):
    path = folder / "sentences.txt"
    path.write_text("\n".join(texts) + "\n")
    return str(path)


def report_of(folder):
    return gathered(folder).as_data()


def test_the_report_says_what_was_dropped_and_why(tmp_path, teacher):
    path = lines(
        tmp_path, "one two three", "", "a forbidden word here", "a broken word here",
        "One  two THREE", "123 456", "short", " ".join(["word"] * 50),
    )  # fmt: skip
    assert main(["speak", path, "--out", str(tmp_path / "audio")]) == 0
    shard = report_of(tmp_path / "audio")["shards"]["000000"]
    assert shard["kept"] == 1
    reasons = {entry["id"]: entry["reason"] for entry in shard["dropped"]}
    assert reasons == {
        "s000001": "empty line",
        "s000002": "the teacher cannot say it: unknown phoneme",
        "s000003": "the teacher failed: ValueError: no",
        "s000004": "same sentence as an earlier line: 0",
        "s000005": "nothing to say in the text",
        "s000006": "shorter than 0.6 s: 0.25 s",
        "s000007": "longer than 11.0 s: 12.50 s",
    }
    assert report_of(tmp_path / "audio")["total"]["dropped"]["empty line"] == 1


def test_a_second_call_makes_what_is_missing_only(tmp_path, teacher):
    path = lines(tmp_path, *(f"sentence number {chr(97 + n)} here" for n in range(6)))
    out = tmp_path / "audio"
    command = ["speak", path, "--out", str(out), "--shard", "2"]
    main([*command, "--count", "4"])
    assert len(teacher.spoken) == 4
    before = (out / "000000.parquet").read_bytes()
    (out / "000002.parquet").unlink()
    main(command)
    assert [words[2] for words in teacher.spoken[4:]] == ["c", "d", "e", "f"]
    assert (out / "000000.parquet").read_bytes() == before
    assert report_of(out)["total"]["kept"] == 6
    assert not list(out.glob(".*"))


def test_a_shard_that_was_cut_short_grows(tmp_path, teacher):
    path = lines(tmp_path, *(f"sentence number {chr(97 + n)} here" for n in range(9)))
    out = tmp_path / "audio"
    command = ["speak", path, "--out", str(out), "--shard", "4"]
    main([*command, "--count", "6"])
    assert report_of(out)["total"]["kept"] == 6
    main([*command, "--count", "8"])
    assert [words[2] for words in teacher.spoken[6:]] == list("efgh")
    assert report_of(out)["total"]["kept"] == 8
    # fewer lines than there are take nothing away
    main([*command, "--count", "5"])
    assert len(teacher.spoken) == 10 and report_of(out)["total"]["kept"] == 8


def test_no_line_is_in_two_shards(tmp_path, teacher):
    path = lines(tmp_path, *(f"sentence number {chr(97 + n)} here" for n in range(12)))
    out = tmp_path / "audio"
    command = ["speak", path, "--out", str(out), "--shard", "4"]
    main([*command, "--count", "6"])
    with pytest.raises(DataError, match="Lines 2 to 3 are in the shard 000000"):
        main([*command, "--start", "2"])
    main([*command, "--start", "6", "--count", "2"])
    with pytest.raises(DataError, match="Lines 6 to 7 are in the shard 000006"):
        main(command)
    assert len(teacher.spoken) == 8


def test_other_settings_are_refused(tmp_path, teacher):
    path = lines(tmp_path, "a sentence to speak")
    out = str(tmp_path / "audio")
    main(["speak", path, "--out", out])
    with pytest.raises(DataError, match="shard"):
        main(["speak", path, "--out", out, "--shard", "3"])
    teacher.config.loud = 1.0
    with pytest.raises(DataError, match="fields"):
        main(["speak", path, "--out", out])


def test_the_voice_has_a_name_in_audio_and_tokens(tmp_path, teacher, system):
    path = lines(tmp_path, "a sentence to speak")
    command = ["speak", path, "--out", str(tmp_path / "audio")]
    main([*command, "--speaker", "someone"])
    tokenize(system, tmp_path / "audio", "--out", tmp_path / "tokens", "--speaker", "nobody")
    table = parquet.read_table(tmp_path / "tokens" / "000000.parquet")
    assert table["speaker"].to_pylist() == ["someone"]
    with pytest.raises(DataError, match="speaker"):
        main([*command, "--speaker", "another"])


def test_files_of_nobody_are_not_overwritten(tmp_path, teacher):
    out = tmp_path / "audio"
    out.mkdir()
    (out / "000000.parquet").write_bytes(b"mine")
    with pytest.raises(DataError, match="without a report"):
        main(["speak", lines(tmp_path, "a sentence to speak"), "--out", str(out)])
    assert (out / "000000.parquet").read_bytes() == b"mine"


@pytest.fixture
def system(tmp_path):
    """A system file whose codec has small random weights."""
    torch.manual_seed(0)
    fields = {"width": 16, "fine_blocks": 1, "blocks": 1}
    codec = FSQCodecTokenizer(FSQCodecTokenizer.Config(**fields))
    (tmp_path / "codec").mkdir()
    write_tensors(tmp_path / "codec" / "model.safetensors", codec)
    path = tmp_path / "system.yaml"
    path.write_text(
        "tokenizer: {name: characters}\n"
        f"speech_tokenizer: {{name: fsqcodec, weights: codec, {str(fields)[1:-1]}}}\n".replace(
            "'", ""
        )
    )
    return path


def tokenize(system, *words):
    return main(["tokenize", *map(str, words), "--system", str(system)])


def test_words_end_where_the_teacher_said(tmp_path, teacher, system):
    path = lines(tmp_path, "one two three", "four five six seven")
    main(["speak", path, "--out", str(tmp_path / "audio")])
    tokenize(system, tmp_path / "audio", "--out", tmp_path / "tokens", "--speaker", "tone")
    corpus = read_tokens(tmp_path / "tokens")
    assert corpus.ids == ["s000000", "s000001"]
    # 0.25 s are 6.25 frames
    assert corpus.word_ends[0].tolist() == [6, 12, 19]
    assert len(corpus.codes[0]) == 19
    assert corpus.about["codec"] == "fsqcodec"
    assert corpus.seconds.tolist() == pytest.approx([0.75, 1.0])


def test_a_folder_of_recordings(tmp_path, system):
    folder = tmp_path / "voice"
    folder.mkdir()
    tone = 0.5 * torch.sin(torch.arange(16_000) / 10)
    soundfile.write(folder / "a.wav", tone.numpy(), 16_000)
    soundfile.write(folder / "empty.wav", tone[:0].numpy(), 16_000)
    (folder / "noise.wav").write_bytes(b"not audio")
    (folder / "metadata.tsv").write_text(
        'file\tseconds\ttext\na.wav\t1\tHe said "yes"\nempty.wav\t0\tNothing\n'
        "noise.wav\t1\tBroken\nmissing.wav\t1\tGone\na.wav\t1\tHeld out\na.wav\t1\t日本\n"
    )
    (tmp_path / "test.txt").write_text("Held out\n")
    out = tmp_path / "tokens"
    tokenize(system, folder, "--out", out, "--exclude", tmp_path / "test.txt")
    corpus = read_tokens(out)
    assert corpus.texts == ['He said "yes"']
    assert len(corpus.codes[0]) == 25
    assert len(corpus.word_ends[0]) == 0
    dropped = report_of(out)["shards"]["voice-000000"]["dropped"]
    assert [(entry["id"], entry["reason"].split(":")[0]) for entry in dropped] == [
        ("empty", "empty audio"),
        ("noise", "not audio"),
        ("missing", "not audio"),
        ("a", "excluded sentence"),
        ("a", "nothing to say in the text"),
    ]


def test_two_sources_of_one_name_are_refused(tmp_path, system):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "000.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="same name"):
        tokenize(system, tmp_path / "x", tmp_path / "y", "--out", tmp_path / "tokens")
    with pytest.raises(DataError, match="no such file"):
        tokenize(system, tmp_path / "z", "--out", tmp_path / "tokens")


def test_a_codec_without_weights_is_refused(tmp_path, system):
    system.write_text(system.read_text().replace("weights: codec, ", ""))
    with pytest.raises(ConfigError, match="no weights"):
        tokenize(system, tmp_path, "--out", tmp_path / "tokens")


def test_rows_of_a_table_that_cannot_be_used_have_a_reason(tmp_path, system):
    folder = tmp_path / "voice"
    folder.mkdir()
    tone = 0.5 * torch.sin(torch.arange(16_000) / 10)
    for name, audio in (
        ("a", tone), ("b", tone), ("silent", 0 * tone), ("noise", torch.rand(16_000 * 30) - 0.5),
        ("c", tone),
    ):  # fmt: skip
        soundfile.write(folder / f"{name}.wav", audio.numpy(), 16_000)
    table = (
        "\ufefffile\ttext\na.wav\tHello there\nb.wav\nsilent.wav\tNothing here\n"
        "noise.wav\tEight words\n../voice/b.wav\tOutside\n/etc/passwd\tOutside\n"
        "a.wav\tAnother text\nc.wav\tA zero\0 byte\n"
    )
    (folder / "metadata.tsv").write_text(table, encoding="utf-8")
    tokenize(system, folder, "--out", tmp_path / "tokens")
    assert read_tokens(tmp_path / "tokens").texts == ["Hello there"]
    dropped = report_of(tmp_path / "tokens")["shards"]["voice-000000"]["dropped"]
    assert sorted(entry["reason"].split(":")[0] for entry in dropped) == [
        "a zero byte in its line",
        "its file is outside the folder",
        "its file is outside the folder",
        "longer than its text",
        "no file or no text in its line",
        "silence",
        "the same file as line 2",
    ]


@pytest.mark.parametrize(
    ("name", "table", "error", "said", "where"),
    [
        ("metadata.tsv", "file\ttext\na.wav\tcafé\n".encode("latin-1"), UsageError, "UTF-8", ":2"),
        ("metadata.tsv", b"name\ttext\n", DataError, "lacks the columns file", "metadata.tsv"),
        ("metadata.csv", b"a|Hello|Hello\n", DataError, "no metadata.tsv", "metadata.csv"),
    ],
)
def test_a_table_of_another_form_is_named(tmp_path, system, name, table, error, said, where):
    (tmp_path / "voice").mkdir()
    (tmp_path / "voice" / name).write_bytes(table)
    with pytest.raises(error, match=said) as refused:
        tokenize(system, tmp_path / "voice", "--out", tmp_path / "tokens")
    assert refused.value.where.endswith(where)
