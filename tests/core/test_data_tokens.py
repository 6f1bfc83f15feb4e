"""Token data: what is written is read, and what does not belong together is refused."""

import json

import numpy as np
import pytest
from tiny_corpus import ABOUT, rows

from wishbone.core.contract.errors import DataError, UsageError

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")

from wishbone.core.cli.data import main  # noqa: E402
from wishbone.core.cli.main import main as run  # noqa: E402
from wishbone.core.data.inspect import inspect  # noqa: E402
from wishbone.core.data.join import join  # noqa: E402
from wishbone.core.data.tokens import read_tokens, write_tokens  # noqa: E402


def test_what_is_written_is_read(tmp_path):
    made = rows(5)
    write_tokens(tmp_path / "a.parquet", made[:3], ABOUT)
    write_tokens(tmp_path / "b.parquet", made[3:], ABOUT)
    corpus = read_tokens(tmp_path)
    assert corpus.ids == [row["id"] for row in made]
    for index, row in enumerate(made):
        sample = corpus.sample(index)
        assert list(sample.text) == row["text_ids"]
        assert [frame[0] for frame in sample.speech] == row["codes"]
        assert list(sample.word_ends) == row["word_ends"]
    lengths = [len(row["text_ids"]) + len(row["codes"]) + 2 for row in made]
    assert corpus.positions().tolist() == lengths


def test_part_of_a_corpus(tmp_path):
    write_tokens(tmp_path / "a.parquet", rows(5), ABOUT)
    corpus = read_tokens(tmp_path)
    part = corpus.take(np.array([4, 1]))
    assert part.ids == ["u4", "u1"]
    assert part.sample(0) == corpus.sample(4)
    assert len(corpus.take(np.array([], np.int64))) == 0


def test_frames_of_several_codebooks_stay_together(tmp_path):
    row = rows(1)[0] | {"codes": [1, 2, 3, 4, 5, 6], "word_ends": []}
    write_tokens(tmp_path / "a.parquet", [row], ABOUT | {"codebooks": 2})
    assert read_tokens(tmp_path).sample(0).speech == [[1, 2], [3, 4], [5, 6]]


def test_tokens_of_two_codecs_are_refused(tmp_path):
    write_tokens(tmp_path / "a.parquet", rows(1), ABOUT)
    write_tokens(tmp_path / "b.parquet", rows(1), ABOUT | {"codec": "other"})
    with pytest.raises(DataError, match="different parts"):
        read_tokens(tmp_path)


def test_other_parquet_and_empty_folders_are_refused(tmp_path):
    import pyarrow
    from pyarrow import parquet

    with pytest.raises(DataError, match="no Parquet"):
        read_tokens(tmp_path)
    parquet.write_table(pyarrow.table({"id": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="not token data"):
        read_tokens(tmp_path)


def test_pairs_are_both_utterances_in_a_row(tmp_path):
    write_tokens(tmp_path / "in" / "a.parquet", rows(7), ABOUT)
    join(tmp_path / "in", tmp_path / "out", pairs=40)
    single, pairs = read_tokens(tmp_path / "in"), read_tokens(tmp_path / "out")
    assert len(pairs) == 3
    used = [identity for joined in pairs.ids for identity in joined.split("+")]
    assert len(set(used)) == 6
    left, right = (single.sample(single.ids.index(i)) for i in pairs.ids[0].split("+"))
    whole = pairs.sample(0)
    assert list(whole.text) == [*left.text, *right.text]
    assert list(whole.speech) == [*left.speech, *right.speech]
    shifted = [len(left.speech) + end for end in right.word_ends]
    assert list(whole.word_ends) == [*left.word_ends, *shifted]


def test_many_utterances_of_one_speaker_in_a_row(tmp_path):
    made = rows(23)
    for number, row in enumerate(made):
        row["speaker"] = "ab"[number % 2]
    write_tokens(tmp_path / "in" / "a.parquet", made, ABOUT)
    words = [str(tmp_path / "in"), "--utterances", "5", "--pairs", "9"]
    assert main(["join", *words, "--out", str(tmp_path / "any")]) == 0
    assert main(["join", *words, "--out", str(tmp_path / "rows"), "--in-order"]) == 0
    single, speakers = read_tokens(tmp_path / "in"), {}
    for folder in ("any", "rows"):
        joined = read_tokens(tmp_path / folder)
        groups = [identity.split("+") for identity in joined.ids]
        used = [identity for group in groups for identity in group]
        assert len(groups) == 4 and len(set(used)) == 20
        for group in groups:
            numbers = [single.ids.index(identity) for identity in group]
            assert len({number % 2 for number in numbers}) == 1
            speakers[folder, tuple(numbers)] = numbers == sorted(numbers)
        parts = [single.sample(single.ids.index(identity)) for identity in groups[0]]
        whole, before = joined.sample(0), 0
        assert list(whole.speech) == [code for part in parts for code in part.speech]
        ends = []
        for part in parts:
            ends += [before + end for end in part.word_ends]
            before += len(part.speech)
        assert list(whole.word_ends) == ends
    assert all(ordered for (folder, _), ordered in speakers.items() if folder == "rows")
    assert not all(ordered for (folder, _), ordered in speakers.items() if folder == "any")
    with pytest.raises(UsageError, match="1 utterances"):
        main(["join", *words[:1], "--utterances", "1", "--out", str(tmp_path / "none")])


def test_inspect_counts(tmp_path, capsys):
    made = rows(5)
    write_tokens(tmp_path / "a.parquet", made, ABOUT)
    figures = inspect(tmp_path)
    assert figures["utterances"] == 5
    assert figures["code frames"] == sum(len(row["codes"]) for row in made)
    assert main(["inspect", str(tmp_path)]) == 0
    assert json.dumps(figures["hours"]) in capsys.readouterr().out


def damaged_row(column, value):
    """Three rows, of which the second has another value."""
    made = rows(3)
    made[1][column] = value
    return made


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("codes", [1, -1], "'codes' holds -1"),
        ("codes", [1, -100], "'codes' holds -100"),
        ("codes", None, "'codes' is missing"),
        ("codes", [1, None], "'codes' is missing"),
        ("text_ids", [-1], "'text_ids' holds -1"),
        ("text", None, "'text' is missing"),
        ("id", None, "'id' is missing"),
        ("word_ends", [3, 2], "'word_ends' fall"),
        ("word_ends", [9999], "ends behind its last code"),
        ("seconds", float("nan"), "'seconds' is no length"),
        ("prompt", [1, 2], "not three numbers"),
        ("prompt", [9999, 1, 0], "longer than the row"),
    ],
)
def test_a_wrong_number_is_named_with_file_and_row(tmp_path, column, value, said):
    write_tokens(tmp_path / "a.parquet", damaged_row(column, value), ABOUT)
    with pytest.raises(DataError, match=said) as refused:
        read_tokens(tmp_path)
    assert refused.value.where == f"{tmp_path / 'a.parquet'}, row 1"


@pytest.mark.parametrize(
    "about", [b"", b"no json", b"[]", b'{"codebooks": 0}', b'{"codebooks": "2"}', b'{"rate": NaN}']
)
def test_a_description_that_is_none_is_refused(tmp_path, about):
    from pyarrow import parquet

    write_tokens(tmp_path / "a.parquet", rows(1), ABOUT)
    table = parquet.read_table(tmp_path / "a.parquet").replace_schema_metadata({"wishbone": about})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="description of the token data cannot be read"):
        read_tokens(tmp_path)


def test_a_column_of_another_type_is_named(tmp_path):
    from pyarrow import array, parquet

    write_tokens(tmp_path / "a.parquet", rows(2), ABOUT)
    table = parquet.read_table(tmp_path / "a.parquet")
    at = table.column_names.index("codes")
    parquet.write_table(table.set_column(at, "codes", array(["1", "2"])), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="'codes' holds string, not whole numbers"):
        read_tokens(tmp_path)


def test_a_file_cut_anywhere_is_damaged(tmp_path, capsys):
    write_tokens(tmp_path / "a.parquet", rows(2), ABOUT)
    data = (tmp_path / "a.parquet").read_bytes()
    for length in (0, 1, 3, 4, 100, len(data) // 2, len(data) - 9, len(data) - 1):
        (tmp_path / "a.parquet").write_bytes(data[:length])
        with pytest.raises(DataError, match="damaged or cut short"):
            read_tokens(tmp_path)
        assert run(["data", "inspect", str(tmp_path)]) == 5
    assert "not foreseen" not in capsys.readouterr().err


def test_a_flipped_bit_inside_a_page_is_no_other_code(tmp_path):
    write_tokens(tmp_path / "a.parquet", rows(40), ABOUT)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[len(data) // 4] ^= 4
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        read_tokens(tmp_path)
