"""Releases of RWKVTTS: every form loads as the same model, and a broken one says what is broken.

Traps of upstream that are mended here are named where they are tested.
"""

import json
import os

import pytest
import rwkvtts_files as files
import torch

from wishbone.core.cli import main
from wishbone.core.config.compose import Config
from wishbone.core.contract.errors import CheckpointError, ConfigError
from wishbone.core.system.build import build_model
from wishbone.core.system.spec import resolve
from wishbone.core.testing import check
from wishbone.core.weights.releases import find_reader
from wishbone.plugins.rwkvtts import names
from wishbone.plugins.rwkvtts.release import Release
from wishbone.plugins.rwkvtts.tokenizer import MARKS, PAD, VOCABULARY, WorldTokenizer

FORMS = ("raw", "old", "converted", "sharded", "alone")


def system(folder=None, **overrides):
    from wishbone.core.config.compose import compose, merge

    values = merge(dict(compose("rwkvtts")), {"backbone": files.BACKBONE})
    values["tokenizer"] |= {"rows": files.TEXT_ROWS}
    if folder is not None:
        values |= {"weights": str(folder)}
        values["tokenizer"] |= {"release": str(folder)}
    return resolve(Config(merge(values, overrides)))


@pytest.fixture(scope="module")
def expected():
    """What each name of ours must hold."""
    raw = files.raw()
    return {
        "tables.marks.weight": raw["llm_embedding.weight"],
        "tables.text.weight": raw["text_embedding.weight"],
        "head.table.weight": raw["speech_embedding.weight"],
        "head.output.weight": raw["llm.lm_head.weight"],
        "head.output.bias": raw["llm.lm_head.bias"],
        "backbone.norm_out.weight": raw["llm.model.norm.weight"],
        "backbone.blocks.1.time_mix.w1": raw["llm.model.layers.1.attn.w_lora.lora.0.weight"].T,
    }


@pytest.mark.parametrize("form", FORMS)
def test_every_form_loads(form, expected, tmp_path):
    folder = files.write(tmp_path / "release", form)
    assert isinstance(find_reader(folder).part, Release)
    result = build_model(system(folder)).state_dict()
    assert all(torch.equal(result[name], row) for name, row in expected.items())
    mix = result["backbone.blocks.0.time_mix.mix"]
    assert torch.equal(mix[3], files.raw()["llm.model.layers.0.attn.x_v"].flatten())


def test_the_wrapper_of_deepspeed_and_the_counters_of_training_do_no_harm(expected, tmp_path):
    renamed = {f"_forward_module.{n}": t for n, t in files.raw().items()}
    folder = files.write(tmp_path / "release", "raw", renamed | {"epoch": 3, "step": 100})
    result = build_model(system(folder)).state_dict()
    assert all(torch.equal(result[name], row) for name, row in expected.items())


def test_the_table_of_text_in_use_is_taken_where_two_differ():
    # Hugging Face's form reads text_embedding; the body's own table may be stale there
    renamed = files.converted(files.raw())
    renamed["model.embeddings.weight"] += 1
    result = names.to_our_names(renamed)
    assert torch.equal(result.tensors["tables.text.weight"], renamed["text_embedding.weight"])
    assert result.aside.keys() == {"model.embeddings.weight"}
    del renamed["text_embedding.weight"]
    alone = names.to_our_names(renamed)
    assert torch.equal(alone.tensors["tables.text.weight"], renamed["model.embeddings.weight"])


def test_every_name_is_accounted_for():
    result = names.to_our_names(files.raw())
    plain = {name.removeprefix("llm.") for name in files.raw()}
    assert result.account.keys() == plain | {"text_embedding.weight"}


class Touch:
    """A pickle that would leave a file behind if it ran."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def without(tensors, name):
    return {n: t for n, t in tensors.items() if n != name}


def hostile():
    good = files.raw()
    narrow = good | {"llm.model.layers.1.attn.k_proj.weight": torch.zeros(64, 63)}
    rows = good | {"llm.lm_head.bias": torch.zeros(6564)}
    cases = {
        "body": (without(good, "llm.model.layers.1.attn.g_norm.weight"), "norm_time|ln_x|missing"),
        "table": (without(good, "speech_embedding.weight"), "no model of RWKVTTS"),
        "marks": (without(good, "llm_embedding.weight"), "missing: llm_embedding.weight"),
        "narrow": (narrow, "another shape"),
        "bias": (rows, "do not belong"),
        "extra": (good | {"llm.model.layers.0.attn.secret": torch.zeros(1)}, "secret"),
        "flat": (good | {"llm.model.layers.0.attn.r_k": torch.zeros(64)}, "should be a matrix"),
        "six": (files.old(good) | {"llm.model.layers.0.attn.x_x": torch.zeros(5, 64)}, "six rows"),
        "uneven": (good | {"llm.model.layers.0.attn.x_r": torch.zeros(1, 1, 3)}, "lengths 3, 64"),
        "twice": (good | {"model.norm.weight": torch.zeros(64)}, "Two tensors are called"),
    }
    return [pytest.param(*case, id=name) for name, case in cases.items()]


@pytest.mark.parametrize(("tensors", "message"), hostile())
def test_a_broken_model_is_refused_in_three_lines(tensors, message, tmp_path, capsys):
    folder = files.write(tmp_path / "release", "raw", tensors)
    with pytest.raises(CheckpointError, match=message):
        build_model(system(folder))
    code = main.main(["convert", "rwkvtts", str(folder / "llm.pt"), str(tmp_path / "ours")])
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 5 and len(lines) == 3 and not (tmp_path / "ours").exists()


def test_code_in_a_pickle_is_not_run(tmp_path, capsys):
    mark = tmp_path / "it-ran"
    for file in ("llm.pt", "pytorch_model.bin"):
        folder = files.write(tmp_path / file, "raw" if file == "llm.pt" else "alone")
        torch.save(files.raw() | {"extra": Touch(mark)}, folder / file)
        with pytest.raises(CheckpointError, match="code and was not run"):
            build_model(system(folder))
    assert not mark.exists()
    # the control: the same file does run where pickle is trusted
    torch.load(folder / file, weights_only=False)
    assert mark.exists()


def test_code_in_the_yaml_is_not_run(tmp_path):
    folder, mark = files.write(tmp_path / "release"), tmp_path / "it-ran"
    (folder / "cosyvoice.yaml").write_text(f"llm: !apply:os.system ['touch {mark}']\n")
    with pytest.raises(ConfigError, match="on no list"):
        build_model(system(folder))
    assert not mark.exists()


@pytest.mark.parametrize("size", [0, 1000, 100_000])
def test_a_file_that_was_cut_short_is_refused(size, tmp_path):
    folder = files.write(tmp_path / "release")
    data = (folder / "llm.pt").read_bytes()
    (folder / "llm.pt").write_bytes(data[:size])
    with pytest.raises(CheckpointError, match="cannot be read"):
        build_model(system(folder))


@pytest.mark.parametrize(
    ("file", "message"), [("../elsewhere.bin", "outside its folder"), ("gone.bin", "is not here")]
)
def test_a_list_of_files_stays_in_its_folder(file, message, tmp_path):
    folder = files.write(tmp_path / "release", "sharded")
    index = folder / "ConvertedCosyLLM" / "pytorch_model.bin.index.json"
    rows = json.loads(index.read_text())
    rows["weight_map"]["speech_embedding.weight"] = file
    index.write_text(json.dumps(rows))
    with pytest.raises(CheckpointError, match=message):
        build_model(system(folder))


def test_other_sizes_are_said_in_one_sentence(tmp_path):
    folder = files.write(tmp_path / "release")
    with pytest.raises(CheckpointError, match="other sizes.*layers: 2.*gate_rank: 24") as caught:
        build_model(system(folder, backbone={"layers": 3, "gate_rank": 32}))
    assert "Write 'backbone: {layers: 2, gate_rank: 24}'" in caught.value.do
    other = {"name": "transformer", "width": 64, "layers": 1, "heads": 2, "kv_heads": 1}
    values = system(folder) | {"backbone": other}
    with pytest.raises(CheckpointError, match="holds an RWKV-7"):
        build_model(values)


def test_an_original_release_is_not_taken_for_one_of_rwkvtts(tmp_path):
    folder = files.write(tmp_path / "release")
    (folder / "CosyVoice-BlankEN" / "config.json").write_text('{"model_type": "qwen2"}')
    assert not Release().holds(folder)


def tokenizer(folder, **fields):
    return WorldTokenizer(
        WorldTokenizer.Config(release=str(folder), rows=files.TEXT_ROWS, **fields)
    )


def test_marks_have_the_ids_of_the_release(tmp_path):
    folder = files.write(tmp_path / "release")
    part = tokenizer(folder)
    last = 256 + len(files.WORDS)
    assert part.space.specials == {mark: last + 1 + i for i, mark in enumerate(MARKS)}
    # upstream writes 65531 into its inference; here the release decides
    ids = {PAD: last + 1, "[mn]": last + 2}
    (folder / "CosyVoice-BlankEN" / "added_tokens.json").write_text(json.dumps(ids))
    moved = tokenizer(folder)
    assert moved.space.specials["[mn]"] == last + 2
    assert moved.space.specials["<|endofprompt|>"] == last + 3
    assert moved.encode("[mn]") == [last + 2]


def test_text_is_cut_into_the_longest_tokens(tmp_path):
    part = tokenizer(files.write(tmp_path / "release"))
    word = {token: 257 + i for i, token in enumerate(files.WORDS)}
    text = "Hello world<|endofprompt|>你好 thing[breath]"
    ids = part.encode(text)
    assert ids == [
        word["Hello"], word[" world"], part.space.specials["<|endofprompt|>"], word["你"],
        word["好"], ord(" ") + 1, ord("t") + 1, ord("h") + 1, word["ing"],
        part.space.specials["[breath]"],
    ]  # fmt: skip
    assert part.decode(ids) == text
    assert part.decode(part.encode("ü€\U0001f600")) == "ü€\U0001f600" and part.encode("") == []
    plain = tokenizer(tmp_path / "release", marks=False)
    assert len(plain.encode("[breath]")) == len("[breath]")


def test_the_world_vocabulary_of_the_official_package(tmp_path):
    package = pytest.importorskip("rwkv", reason="pip install rwkv: it ships the vocabulary")
    source = next(p for p in package.__path__) + f"/{VOCABULARY}"
    (tmp_path / VOCABULARY).write_bytes(open(source, "rb").read())
    part = WorldTokenizer(WorldTokenizer.Config(release=str(tmp_path)))
    assert part.encode("Hello world") == [33155, 40213]
    assert part.encode("你好，世界") == [10464, 11685, 19137, 10267, 14610]
    assert part.encode("The Eiffel tower is in the city of") == [
        6699, 304, 25740, 109, 39990, 4600, 4596, 22590, 30449, 4706
    ]  # fmt: skip
    # 65530 ids, a pad, 17 marks: what the public inference has written into it
    assert part.space.specials["<|endofprompt|>"] == 65531
    assert part.space.specials["[mn]"] == 65547 == part.space.vocabulary - 1


def test_the_contract_of_a_tokenizer(tmp_path):
    folder = files.write(tmp_path / "release")
    config = WorldTokenizer.Config(release=str(folder), rows=files.TEXT_ROWS)
    results = check("tokenizer", "rwkv-world", config)
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []
    assert not any(r.skipped for r in results if r.name == "odd_text")


@pytest.mark.parametrize(
    "line", ["1 'a'", "x 'a' 1", "9999 __import__('os') 1", "9999 'ab' 1", "1 'a' 1"]
)
def test_a_vocabulary_is_data(line, tmp_path):
    folder = files.write(tmp_path / "release")
    path = folder / "CosyVoice-BlankEN" / VOCABULARY
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(CheckpointError, match="no id, token and length") as caught:
        tokenizer(folder)
    assert caught.value.where.endswith(f":{256 + len(files.WORDS) + 1}")


def test_a_tokenizer_with_more_ids_than_the_table_is_refused(tmp_path):
    folder = files.write(tmp_path / "release")
    (folder / "cosyvoice.yaml").write_text(
        files.SETTINGS.replace("vocab_size: 300", "vocab_size: 270")
    )
    with pytest.raises(CheckpointError, match="ids up to 282"):
        tokenizer(folder)
    with pytest.raises(ConfigError, match="names no release"):
        WorldTokenizer(WorldTokenizer.Config()).encode("a")


def test_a_release_speaks_from_text_to_samples(tmp_path):
    pytest.importorskip("onnx", reason="pip install onnx: it writes the ears of a toy release")
    import cosyvoice2_release as original

    from wishbone.core.speak import text_to_speech
    from wishbone.core.speak.speaker import build
    from wishbone.core.speak.voice import release_voices

    folder = original.write(tmp_path / "release")
    for name in ("llm.pt", "cosyvoice2.yaml"):
        (folder / name).unlink()
    files.write(folder, "converted")
    values = system(folder, decoder=original.TINY["decoder"] | {"weights": str(folder)})
    values["speech_tokenizer"] |= {"weights": str(folder)}
    speaking = build(values | {"layout": values["layout"] | {"max_code_ratio": 2.0}})
    voice, record = release_voices(folder)["recorded"], []
    audio = text_to_speech.say(speaking, "Hello world.", voice, record=record)
    assert record[0].codes and len(audio.samples) == 960 * len(record[0].codes)
    assert all(code < 6561 for (code,) in record[0].codes)
    assert torch.equal(text_to_speech.say(speaking, "Hello world.", voice).samples, audio.samples)
