"""The index of token data: mapped instead of read, with the same utterances, batches and digest.

``WISHBONE_CODES=900000000 python -m pytest -n 0 tests/core/test_token_index.py -s`` makes so many
codes, which takes some minutes and 6 GB of disk, and prints how a training starts on them.
"""

import json
import os
import shutil

import numpy as np
import pytest

pyarrow = pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")

from made_up_tokens import start_training, write_made_up  # noqa: E402
from tiny_corpus import ABOUT, RECIPE, rows, write_recipe  # noqa: E402

from wishbone.core.contract.errors import DataError  # noqa: E402
from wishbone.core.data.bulk import token_index  # noqa: E402
from wishbone.core.data.bulk.token_index import INDEX, open_tokens, write_index  # noqa: E402
from wishbone.core.data.corpora import read_corpus, require_same_parts  # noqa: E402
from wishbone.core.data.tokens import read_tokens, write_tokens  # noqa: E402
from wishbone.core.train.batches import BatchPlan, split_held_out, without_texts  # noqa: E402
from wishbone.core.train.run import run  # noqa: E402
from wishbone.core.weights.provenance import hash_files  # noqa: E402

CODES = int(os.environ.get("WISHBONE_CODES", 0))


def both(folder):
    write_index(folder)
    return open_tokens(folder), read_tokens(folder)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files of which one has prompts and one has nothing, and batches that end inside of files."""
    monkeypatch.setattr(token_index, "BATCH", 16)
    first = rows(25)
    for row in first[::3]:
        row["prompt"] = [2, 1, 0]
    write_tokens(tmp_path / "a.parquet", first, ABOUT)
    write_tokens(tmp_path / "b.parquet", [], ABOUT)
    write_tokens(tmp_path / "c.parquet", rows(40, seed=1, text="another {}"), ABOUT)
    return tmp_path


def same(mapped, read):
    assert len(mapped) == len(read) and list(mapped.ids) == list(read.ids)
    assert list(mapped.texts) == list(read.texts) and mapped.about == read.about
    assert mapped.seconds.tolist() == read.seconds.tolist()
    assert mapped.positions().tolist() == read.positions().tolist()
    assert [mapped.sample(row) for row in range(len(read))] == [
        read.sample(row) for row in range(len(read))
    ]


def test_a_mapped_corpus_is_the_one_that_is_read(folder):
    mapped, read = both(folder)
    same(mapped, read)
    chosen = np.array([60, 3, 24, 25, 0])
    same(mapped.take(chosen), read.take(chosen))
    same(mapped.take(chosen).take(np.array([2, 0])), read.take(chosen[[2, 0]]))
    assert mapped.codes.highest() == read.codes.highest()
    assert mapped.codes.row_of(read.codes.highest()) == read.codes.row_of(read.codes.highest())


def test_texts_are_held_out_alike_and_so_are_batches_planned(folder):
    mapped, read = both(folder)
    for share in (0.0, 0.3, 1.0):
        for one, other in zip(
            split_held_out(mapped, share), split_held_out(read, share), strict=True
        ):
            assert one.tolist() == other.tolist()
    part = read.take(np.array([1, 30, 31]))
    assert without_texts(mapped, part).tolist() == without_texts(read, part).tolist()
    assert len(without_texts(mapped, part)) == 62
    plans = [BatchPlan(corpus.positions(), 400, 3) for corpus in (mapped, read)]
    assert [x.tolist() for x in plans[0].epoch(1)] == [x.tolist() for x in plans[1].epoch(1)]


def test_texts_of_one_hash_are_compared_themselves(folder):
    mapped, read = both(folder)
    mapped.text_hashes[:] = 7
    other = read.take(np.array([4]))
    object.__setattr__(other, "text_hashes", np.array([7], np.uint64))
    assert without_texts(mapped, other).tolist() == without_texts(read, read.take(np.array([4]))
                                                                  ).tolist()  # fmt: skip


def test_the_digest_of_a_corpus_is_that_of_its_files(folder):
    mapped, read = both(folder)
    assert hash_files(mapped.files, mapped.digests) == hash_files(read.files)
    # a copy has other times: it is read once more, and is the same
    copy = shutil.copytree(folder, folder.parent / "copy", copy_function=shutil.copyfile)
    assert hash_files(open_tokens(copy).files, open_tokens(copy).digests) == hash_files(read.files)


@pytest.mark.parametrize("change", ["another", "less", "more"])
def test_an_index_of_other_files_is_not_used(folder, change, capsys):
    write_index(folder)
    if change == "another":
        made = rows(25)
        made[3]["codes"][0] += 1
        write_tokens(folder / "a.parquet", made, ABOUT)
    elif change == "less":
        (folder / "b.parquet").unlink()
    else:
        write_tokens(folder / "d.parquet", rows(3), ABOUT)
    assert open_tokens(folder) is None
    assert "wishbone data gather" in capsys.readouterr().err


def test_a_damaged_index_is_named(folder):
    path = write_index(folder)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError) as caught:
        open_tokens(folder)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("facts", ["null", "{", '{"version": "1"}', None])
def test_a_file_of_that_name_that_is_no_index_is_named(folder, facts):
    path, schema = folder / INDEX, pyarrow.schema([("id", pyarrow.string())])
    with pyarrow.ipc.new_file(str(path), schema) as writer:
        batch = pyarrow.record_batch([pyarrow.array([], "string")], schema=schema)
        writer.write_batch(batch, custom_metadata={token_index.ABOUT: facts} if facts else None)
    with pytest.raises(DataError) as caught:
        open_tokens(folder)
    assert caught.value.where == str(path)


def test_an_index_that_is_cut_while_it_is_read_is_named(folder):
    mapped, _ = both(folder)
    path = folder / INDEX
    codes = mapped.codes[64]
    os.truncate(path, 4096)
    with pytest.raises(DataError, match="ends .* bytes early") as caught:
        [mapped.codes[row] for row in range(65)]
    assert caught.value.where == str(path) and len(codes)


def test_rows_share_one_open_file(folder):
    """A hundred record batches with seven columns would be more files than a process may open."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc to count open files")
    write_index(folder)
    before = len(os.listdir("/proc/self/fd"))
    mapped = open_tokens(folder)
    assert len(mapped.texts.pieces) > 4 and mapped.texts[64] and len(mapped.codes[64])
    # the mapping itself, and the one file
    assert len(os.listdir("/proc/self/fd")) - before <= 2


def test_a_damaged_file_leaves_no_index(folder):
    made = rows(5)
    made[2]["codes"][1] = -3
    write_tokens(folder / "d.parquet", made, ABOUT)
    with pytest.raises(DataError, match="codes"):
        write_index(folder)
    assert not (folder / INDEX).exists() and not list(folder.glob(".*"))


def test_mapped_and_read_folders_follow_each_other(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_tokens(other / "x.parquet", rows(7, seed=2), ABOUT)
    system = {"tokenizer": {"name": "phonemes"}}
    expected = read_tokens([folder, other])
    write_index(folder)
    same(read_corpus([folder, other], system), expected)
    write_index(other)
    same(read_corpus([folder, other], system), expected)
    write_tokens(other / "y.parquet", rows(7, seed=2), ABOUT | {"codec": "another"})
    (other / INDEX).unlink()
    (other / "x.parquet").unlink()
    with pytest.raises(DataError, match="different parts"):
        read_corpus([folder, other], system)


def test_a_code_that_the_codec_lacks_is_named_without_reading_all(folder):
    class Codes:
        codebooks, rate, size, global_size, global_count = 1, 25.0, 100, 0, 0

    mapped, read = both(folder)
    system = {"tokenizer": {"name": "phonemes"}, "speech_tokenizer": {"name": "fsqcodec"}}
    errors = []
    for corpus in (mapped, read):
        with pytest.raises(DataError, match="its highest code is") as caught:
            require_same_parts(corpus, system, {"text": 100}, Codes)
        errors.append(caught.value.what)
    assert errors[0] == errors[1]


def test_a_training_goes_on_with_an_index_as_without(tmp_path):
    """Exact resume: the second half of a run reads mapped data, and nothing else changes."""
    recipe, logs = write_recipe(tmp_path), []
    for name, half in (("whole", False), ("halves", True)):
        if half:
            assert run(str(recipe), [f"out={tmp_path / name}", "steps=3"]) == 0
            write_index(tmp_path / "tokens")
            shutil.rmtree(tmp_path / name / "export")
        words = [f"out={tmp_path / name}", "steps=6"]
        assert run(str(recipe), words, change=half) == 0
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        logs.append([(r["step"], r["loss"]) for r in map(json.loads, lines) if "loss" in r])
    assert logs[0] == logs[1] and len(logs[0]) == 6


@pytest.mark.timeout(3600)
def test_the_start_of_a_training_does_not_follow_the_size_of_its_data(tmp_path):
    """Memory of its own, and in all."""
    words = ("steps=20", "evaluate_every=0", "checkpoint_every=0", "batch_positions=4000")
    figures = {}
    for codes in (30_000, CODES or 3_000_000):
        folder = tmp_path / str(codes)
        write_made_up(folder / "tokens", codes)
        write_index(folder / "tokens")
        (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder, dropout=0.0))
        held_out = f"held_out={min(0.1, 3e5 / codes)}"
        figures[codes] = start_training(folder / "recipe.yaml", *words, held_out)
        seconds, memory, end, step = figures[codes]
        print(f"{codes} codes: {seconds[0]:.1f} s to the first step, {seconds[1]:.1f} s of the"
              f" processor; {memory[0]:.2f} GB at most,"
              f" {memory[1]:.2f} its own, {memory[2]:.2f} of files; a step takes {step:.0f} us a"
              f" position")  # fmt: skip
        shutil.rmtree(folder)
    small, large = figures.values()
    # 6 000 000 utterances: 0.35 GB and 5 s more; read whole, the codes alone would be 3.6 GB
    assert large[1][1] - small[1][1] < (1.0 if CODES else 0.1)
    # and no pages of the file beside them: mapped, those of the rows read would be 1.5 GB
    assert large[1][0] - small[1][0] < (1.0 if CODES else 0.1)
    if CODES:
        assert large[0][1] < 10 and large[1][0] < 2
