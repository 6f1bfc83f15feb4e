"""A folder in the format of CosyVoice2-0.5B loads and speaks in every mode; a hostile one does not.

The weights are random and the sizes tiny; names and shapes of full size are compared on the meta
device with those that the public files have.
"""

import os
import shutil

import cosyvoice2_release as releases
import pytest
import torch

from wishbone.core.contract.errors import CheckpointError, ConfigError
from wishbone.core.speak.speaker import build
from wishbone.core.speak.voice import fingerprint
from wishbone.core.system.loading import load_tensors
from wishbone.core.weights.releases import find_reader
from wishbone.plugins.cosyvoice2.release import files, settings
from wishbone.plugins.cosyvoice2.release.reader import Release

pytest.importorskip(
    "onnxruntime", reason="ears of the release: pip install 'wishbone-tts[cosyvoice2]'"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return releases.write(tmp_path_factory.mktemp("releases") / "CosyVoice2-0.5B")


@pytest.fixture(scope="module")
def system(folder):
    return build(releases.config(folder, **releases.SHORT))


@pytest.mark.parametrize("what, count", [("llm", 295), ("flow", 1121), ("hift", 328)])
def test_the_public_files_have_so_many_tensors(what, count):
    assert len(releases.names(what)) == count


def test_every_public_name_and_shape_has_a_place_in_ours():
    """Ours, translated back, are exactly theirs: nothing is left over on either side."""
    full = releases.config(full=True)
    flow, hift = releases.decoder(full, "meta")
    for what, module in (("llm", releases.llm(full, "meta")), ("flow", flow), ("hift", hift)):
        assert {n: list(t.shape) for n, t in module.items()} == releases.names(what), what


def test_the_folder_is_known(folder, tmp_path):
    assert isinstance(find_reader(folder).part, Release)
    assert find_reader(tmp_path).part is None and find_reader(tmp_path / "nowhere").part is None


def test_weights_arrive_unchanged(folder, system):
    llm = files.load_tensors(folder / "llm.pt", "language model")
    model = system.model
    assert torch.equal(model.tables["text"].weight, llm["llm.model.model.embed_tokens.weight"])
    rows = [llm[f"llm.model.model.layers.1.self_attn.{n}_proj.weight"] for n in "qkv"]
    assert torch.equal(model.backbone.blocks[1].attention.qkv.weight, torch.cat(rows))
    flow = files.load_tensors(folder / "flow.pt", "flow")
    assert torch.equal(system.decoder.flow.codes.weight, flow["input_embedding.weight"])


def test_what_training_leaves_in_the_files_is_no_weight(folder, tmp_path):
    llm = torch.load(folder / "llm.pt", weights_only=True)
    del llm["llm.model.lm_head.weight"]
    torch.save(llm | {"epoch": 3, "step": 70}, tmp_path / "llm.pt")
    assert files.load_tensors(tmp_path / "llm.pt", "model").keys() == llm.keys()
    hift = torch.load(folder / "hift.pt", weights_only=True)
    inside = {f"generator.{name}": row for name, row in hift.items()}
    torch.save(inside | {"discriminator.x": torch.zeros(1), "step": 1}, tmp_path / "hift.pt")
    assert files.load_tensors(tmp_path / "hift.pt", "vocoder").keys() == hift.keys()


class Code:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def _edit(path, change):
    rows = torch.load(path, weights_only=True)
    change(rows)
    torch.save(rows, path)


def _pop(rows):
    rows.pop(sorted(name for name in rows if "lm_head" not in name)[0])


def _reshape(rows):
    name = sorted(name for name in rows if "lm_head" not in name)[0]
    rows[name] = torch.zeros(3, *rows[name].shape)


HOSTILE = {
    "missing tensor": lambda path, mark: _edit(path, _pop),
    "unknown tensor": lambda path, mark: _edit(path, lambda rows: rows.update(x=torch.zeros(1))),
    "wrong shape": lambda path, mark: _edit(path, _reshape),
    "code": lambda path, mark: torch.save({"a": torch.zeros(1), "b": Code(mark)}, path),
    "old code": lambda path, mark: torch.save(
        {"b": Code(mark)}, path, _use_new_zipfile_serialization=False
    ),
    "cut short": lambda path, mark: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path, mark: path.write_bytes(b""),
    "text": lambda path, mark: path.write_text("<html>not found</html>"),
    "no table": lambda path, mark: torch.save([torch.zeros(1)], path),
    "gone": lambda path, mark: path.unlink(),
}


@pytest.mark.parametrize("how", HOSTILE)
@pytest.mark.parametrize("name", ["llm.pt", "flow.pt", "hift.pt"])
def test_a_hostile_file_is_an_error_and_runs_nothing(folder, system, tmp_path, name, how):
    spoiled, mark = tmp_path / "release", tmp_path / "mark"
    shutil.copytree(folder, spoiled)
    HOSTILE[how](spoiled / name, mark)
    before = fingerprint(system.model), fingerprint(system.decoder)
    with pytest.raises(CheckpointError) as caught:
        if name == "llm.pt":
            loaded = Release().language_model(spoiled, system.model)
            load_tensors(system.model, loaded.tensors, str(spoiled))
        else:
            system.decoder.load_release(spoiled)
    lines = caught.value.lines()
    assert len(lines) == 3 and all(len(line) < 5000 for line in lines)
    assert name in " ".join(lines) or str(spoiled) in lines[1]
    assert not mark.exists(), "code was run"
    system.decoder.load_release(folder)
    assert (fingerprint(system.model), fingerprint(system.decoder)) == before


def test_the_code_of_the_tests_does_run_where_it_is_let(tmp_path):
    """Negative control: without the guard the same file would leave its mark."""
    torch.save(Code(tmp_path / "mark"), tmp_path / "x.pt")
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: !!python/object/apply:os.mkdir [MARK]", "on no list"),
        ("a: !apply:os.mkdir [MARK]", "!apply:os.mkdir is on no list"),
        ("a: !new:os.mkdir [MARK]", "on no list"),
        ("a: !name:os.mkdir {path: MARK}", "on no list"),
        ("a: !include:/etc/passwd", "on no list"),
        ("a: &x [1]\nb: [*x, *x]", "anchor"),
        ("a: !ref <b>", "refers to b"),
        ("b: 2\na: !ref <b>.__class__", "no name and no product"),
        ("b: text\na: !ref <b> * 2", "no number"),
        ("a: [1\n", "no YAML"),
        ("[1, 2]", "no mapping"),
        ("a: " + "[" * 200 + "]" * 200, "too deep"),
        ("a: " + "x" * (1 << 21), "too long"),
    ],
)
def test_a_hostile_yaml_is_an_error_and_runs_nothing(tmp_path, text, message):
    mark = tmp_path / "mark"
    (tmp_path / "cosyvoice2.yaml").write_text(text.replace("MARK", str(mark)))
    with pytest.raises(ConfigError, match=message) as caught:
        settings.read(tmp_path)
    assert len(caught.value.lines()) == 3 and "cosyvoice2.yaml:" in caught.value.where
    assert not mark.exists()


def test_the_yaml_is_values(folder, tmp_path):
    values = settings.read(folder)
    assert values["llm"]["llm_input_size"] == 64 and values["llm"]["class"].endswith("Qwen2LM")
    assert values["flow"]["decoder"]["estimator"]["static_chunk_size"] == 50
    assert values["flow"]["decoder"]["cfm_params"]["content"]["sigma_min"] == 1e-6
    assert values["data_pipeline"] == ["<get_tokenizer>"] and settings.read(tmp_path) == {}


def test_a_release_of_another_size_is_told_before_it_is_read(folder, system, tmp_path):
    shutil.copytree(folder, tmp_path / "release")
    path = tmp_path / "release" / "cosyvoice2.yaml"
    path.write_text(path.read_text().replace("llm_input_size: 64", "llm_input_size: 896"))
    with pytest.raises(CheckpointError, match="llm_input_size is 896, here 64"):
        Release().language_model(tmp_path / "release", system.model)


@pytest.mark.parametrize(
    "rows",
    [
        {"x": {"embedding": torch.full((1, 192), float("nan"))}},
        {"x": {"colour": torch.zeros(1)}},
        {"x": {"embedding": "text"}},
        {"x": {}},
        {
            "x": {
                "flow_prompt_speech_token": torch.zeros(1, 3),
                "prompt_speech_feat": torch.zeros(3),
            }
        },
    ],
)
def test_presets_that_are_none(tmp_path, rows):
    torch.save(rows, tmp_path / "spk2info.pt")
    with pytest.raises(CheckpointError, match="preset 'x'"):
        Release().voices(tmp_path)
