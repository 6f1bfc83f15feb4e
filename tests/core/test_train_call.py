"""One call of a training: what it refuses, prints, exports and repeats, without training."""

import json
import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from wishbone.core.contract.errors import CheckpointError, ConfigError, DataError
from wishbone.core.train import repeat, run, truncated_bptt
from wishbone.core.train.distributed import fsdp, sharded_files
from wishbone.core.train.distributed.processes import ProcessGroup
from wishbone.core.train.recipe import Recipe, _validate
from wishbone.core.train.run_folder import RunFolder, _changed, _differences
from wishbone.core.weights.tensor_files import write_tensors

ALONE = ProcessGroup(0, 1, torch.device("cpu"))
RECIPE = Recipe(system="quickstart-rwkv7", data="d", out="runs/x")


def exported(folder, steps, out="runs/x", text=None):
    folder.mkdir(parents=True)
    origin = json.dumps({"notes": {"steps": steps, "recipe": {"out": out}}})
    (folder / "provenance.json").write_text(origin if text is None else text)


@pytest.mark.parametrize(
    ("before", "beside", "target"),
    [
        (None, False, "export"), ((4, "runs/x"), False, "export"), ((4, "runs/x"), True, "export"),
        ((5, "runs/x"), False, None), ((6, "runs/x"), False, "export-00000005"),
        ((6, "runs/x"), True, None), ((4, "other"), False, "export-00000005"),
        ((5, "other"), True, None),
    ],
)  # fmt: skip
def test_an_export_goes_over_an_earlier_one_of_its_run_and_beside_all_others(
    tmp_path, capsys, before, beside, target
):
    folder = RunFolder(tmp_path)
    if before:
        exported(folder.export, *before)
    if beside:
        (tmp_path / "export-00000005").mkdir()
    found = run._export_folder(folder, RECIPE, 5)
    assert found == (target and tmp_path / target)
    assert ("exists already" in capsys.readouterr().err) is (target is None)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"notes": {"steps": 4}}', '{"notes": null}'])
def test_an_export_that_says_nothing_of_itself_stays(tmp_path, text):
    exported(tmp_path / "export", 0, text=text)
    assert run._export_folder(RunFolder(tmp_path), RECIPE, 5) == tmp_path / "export-00000005"


def summary(trained=True, form="", **fields):
    model = nn.Linear(1000, 2000)
    if not trained:
        model.bias.requires_grad_(False)
    model.backbone = SimpleNamespace(training_form=lambda: form)
    return SimpleNamespace(
        model=model, step=0, steps_per_epoch=lambda: 17,
        schedule=SimpleNamespace(recipe_at=lambda step: Recipe(**fields)),
    )  # fmt: skip


def test_a_run_tells_its_size_before_it_begins(capsys):
    corpus = SimpleNamespace(seconds=np.array([3600.0, 1800.0]))
    corpus = type("Corpus", (), {"seconds": corpus.seconds, "__len__": lambda self: 2})()
    run._print_summary(summary(), corpus, range(3))
    assert capsys.readouterr().err == (
        "2.00 M parameters; 2 utterances, 1.50 h, 17 steps an epoch; 3 held out\n"
    )
    run._print_summary(summary(False, "in chunks of 64", steps=5, warmup_steps=5), corpus, [])
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "2.000 M parameters are trained, the rest frozen"
    assert told[1].startswith("warning: the warm-up of 5 steps") and told[2] == "in chunks of 64"


@pytest.mark.parametrize(
    ("steps", "weights", "told"),
    [((1500, 2), "w", "(w, trained for 1,502 steps)"), ((), None, "(the weights of its parts)")],
)
def test_a_run_that_goes_on_from_weights_says_so(monkeypatch, capsys, steps, weights, told):
    stages = [{"steps": each} for each in steps]
    monkeypatch.setattr(run, "_earlier_trainings", lambda system: stages)
    run._tell_start(SimpleNamespace(system={"weights": weights}))
    assert f"goes on from trained weights {told}: it is fine-tuning." in capsys.readouterr().err


def test_a_run_needs_something_to_learn_from():
    with pytest.raises(DataError, match="empty: 0 utterances"):
        run._require_some([], np.arange(0), RECIPE)
    with pytest.raises(DataError, match="all 3 are held out"):
        run._require_some(range(3), np.arange(0), RECIPE)
    run._require_some(range(3), np.arange(1), RECIPE)


@pytest.mark.parametrize(
    ("precision", "begun", "fast", "result"),
    [
        ("fp32", "bf16", True, "fp32"), ("bf16", None, False, "bf16"),
        ("auto", "bf16", False, "bf16"), ("auto", "fp32", True, "fp32"),
        ("auto", None, True, "bf16"), ("auto", "auto", False, "fp32"),
    ],
)  # fmt: skip
def test_a_run_stays_at_the_precision_it_began_with(monkeypatch, precision, begun, fast, result):
    monkeypatch.setattr(run, "multiplies_bfloat16_faster", lambda device: fast)
    folder = SimpleNamespace(begun_with=lambda field: begun if field == "precision" else None)
    assert run._precision(replace(RECIPE, precision=precision), folder, ALONE) == result


REFUSED = [
    ({"system": 5}, "does not say what to train"), ({"system": None}, "does not say"),
    ({"system": {"base": 5}}, "is no system"), ({"data": [1]}, "'data' lists something"),
    ({"held_out": ["a", 1]}, "'held_out' lists something"), ({"data": None}, "does not name"),
    ({"data": []}, "does not name"), ({"data": ""}, "does not name"), ({"data": 5}, "not name"),
    ({"held_out": {}}, "neither a folder nor a share"),
    ({"optimizer": "muon", "shard": "full"}, "Muon needs whole matrices"),
    ({"segment_positions": 8193}, "8193 positions does not fit into a batch of 8192"),
    ({"segment_positions": 5, "objective": {"name": "x"}}, "objective 'x' sees whole"),
    ({"segment_positions": 5, "objective": "x"}, "objective 'None' sees whole"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "told"), REFUSED)
def test_contradictions_of_a_recipe_are_told_at_their_place(fields, told):
    values = SimpleNamespace(place=lambda key: f"at {key}")
    with pytest.raises(ConfigError, match=told) as caught:
        _validate(replace(RECIPE, **fields), values)
    assert caught.value.where.startswith(f"at {next(iter(fields))}")


@pytest.mark.parametrize(
    "fields",
    [
        {"system": {"base": "x"}}, {"system": {}}, {"data": ["a", "b"]}, {"held_out": 0},
        {"held_out": 0.5}, {"held_out": "x"}, {"held_out": ["x"]}, {"segment_positions": 8192},
        {"optimizer": "muon"}, {"shard": "full"}, {"objective": {"name": "x"}}, {"objective": "x"},
    ],
)  # fmt: skip
def test_a_recipe_without_contradictions_is_none_of_them(fields):
    _validate(replace(RECIPE, **fields), SimpleNamespace(place=lambda key: key))


def test_fields_by_which_losses_change_are_named_with_their_keys():
    one = {"a": 1, "b": {"c": 1, "d": 2}, "out": 1, "e": {"keep": 1}}
    two = {"a": 1, "b": {"c": 3, "d": 2, "f": 0}, "out": 2, "e": {"keep": 2}}
    assert _differences(one, two) == ["b.c", "b.f", "e.keep"]
    assert _differences(one, one) == [] and _differences({"b": 1}, {"b": {"c": 1}}) == ["b"]
    assert _differences({}, {"x": None}) == []


def test_a_record_of_an_older_run_lacks_fields_without_being_another():
    now = {"start_weights": "w", "positions_per_step": 16384, "batch_positions": 4096}
    now = {**vars(RECIPE), "accumulate": 4, **now}
    now["drop"] = {}
    before = {**now, "batch_positions": 8192, "accumulate": 2}
    assert _changed(before, now) == []
    without = {key: value for key, value in before.items() if key != "positions_per_step"}
    assert _changed(without, now) == ["accumulate", "batch_positions"]
    older = {key: value for key, value in before.items() if key != "start_weights"}
    assert _changed(older, now) == []
    assert _changed({**before, "positions_per_step": 1}, now) == [
        "accumulate", "batch_positions", "positions_per_step",
    ]  # fmt: skip
    assert _changed({**before, "start_weights": "v"}, now) == ["start_weights"]


def test_what_unfinished_and_old_checkpoints_left_goes_and_what_is_alive_stays(tmp_path):
    import os

    checkpoints = tmp_path / "checkpoints"
    RunFolder(tmp_path).claim(RECIPE, "h", False)
    names = (
        "step-1",
        "step-2",
        "step-3",
        ".step-4.999999999",
        f".step-5.{os.getpid()}",
        ".step-6.x",
    )
    for name in names:
        (checkpoints / name).mkdir(parents=True)
    RunFolder(tmp_path, keep=2).claim(RECIPE, "h", False)
    assert sorted(path.name for path in checkpoints.iterdir()) == sorted(
        (f".step-5.{os.getpid()}", ".step-6.x", "step-2", "step-3")
    )
    assert RunFolder(tmp_path).begun_with("data_hash") == "h"
    assert RunFolder(tmp_path).begun_with("positions_per_step") == 8192
    assert RunFolder(tmp_path / "nothing").begun_with("data_hash") is None
    with pytest.raises(ConfigError, match="other values of: data_hash"):
        RunFolder(tmp_path).claim(RECIPE, "other", False)
    RunFolder(tmp_path).claim(RECIPE, "other", True)
    assert RunFolder(tmp_path).begun_with("data_hash") == "other"


def parts(folder, *files):
    for number, tensors in enumerate(files):
        write_tensors(folder / f"model-{number:05d}-of-{len(files):05d}.safetensors", tensors)


def test_rows_of_several_files_stand_one_below_the_other(tmp_path):
    first = {"w": torch.ones(2, 3), "alone": torch.tensor(5.0), "b": torch.zeros(1)}
    parts(tmp_path, first, {"w": torch.zeros(1, 3)})
    found = sharded_files.read_part(tmp_path, "model")
    assert found["w"].tolist() == [[1.0] * 3] * 2 + [[0.0] * 3]
    assert float(found["alone"]) == 5.0 and found["b"].tolist() == [0.0]
    like = torch.zeros(9, 9)
    assert sharded_files.read_part(tmp_path, "model", lambda name: like)["w"].shape == (3, 3)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ((), "0 files of its shares."), (("model-00000-of-00002",), "1 files of its shares, of 2."),
        (("model-00001-of-00002", "model-00002-of-00002"), "2 files of its shares, of 2."),
        (("model-a-of-b",), "1 files of its shares."),
    ],
)  # fmt: skip
def test_a_part_that_is_not_all_here_is_told(tmp_path, names, told):
    for name in names:
        write_tensors(tmp_path / f"{name}.safetensors", {"w": torch.ones(1)})
    with pytest.raises(CheckpointError) as caught:
        sharded_files.read_part(tmp_path, "model")
    assert caught.value.what.endswith(told) and caught.value.where == str(tmp_path)


def test_one_file_of_a_part_is_enough(tmp_path):
    sharded_files.write_part(tmp_path, "model", {"w": torch.ones(1)}, ALONE)
    sharded_files.write_part(tmp_path, "other", {"w": torch.ones(1)}, replace(ALONE, rank=1))
    sharded_files.write_rows(tmp_path, "rows", {"row": torch.ones(1)}, ALONE)
    sharded_files.write_rows(tmp_path, "many", {"row": torch.ones(1)}, replace(ALONE, size=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "many-00000-of-00002.safetensors", "model.safetensors", "rows.safetensors",
    ]  # fmt: skip
    assert len(sharded_files.read_rows(tmp_path, "rows")) == 1
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="'model' of the checkpoint cannot be read"):
        sharded_files.read_part(tmp_path, "model")


class Share:
    """A tensor of so many rows, of which process ``rank`` of ``size`` has its own."""

    def __init__(self, rows, rank, size):
        piece = -(-rows // size)
        begin = min(rows, rank * piece)
        self.shape, self.count = (rows, 2), min(rows, begin + piece) - begin
        self.device_mesh = SimpleNamespace(size=lambda: size, get_local_rank=lambda: rank)

    def detach(self):
        return self

    def to_local(self):
        return torch.zeros(self.count, 2)


@pytest.mark.parametrize(
    ("rows", "size", "ranges"),
    [
        (6, 3, [(0, 2), (2, 4), (4, 6)]), (5, 3, [(0, 2), (2, 4), (4, 5)]),
        (2, 3, [(0, 1), (1, 2), (2, 2)]), (4, 3, [(0, 2), (2, 4), (4, 4)]),
    ],
)  # fmt: skip
def test_rows_of_a_process_are_those_that_chunks_give_it(rows, size, ranges):
    assert [fsdp.local_range(Share(rows, rank, size)) for rank in range(size)] == ranges
    assert fsdp.is_share(Share(1, 0, 1)) and not fsdp.is_share(torch.ones(1))


def test_a_plain_gradient_is_clipped_to_its_longest(tmp_path):
    model = nn.Linear(2, 1, bias=False)
    for limit, length in ((1.0, 1.0), (10.0, 5.0), (0.0, 5.0)):
        model.weight.grad = torch.tensor([[3.0, 4.0]])
        assert fsdp.clip_gradients_(model.parameters(), limit, ALONE) == pytest.approx(5.0)
        assert float(model.weight.grad.norm()) == pytest.approx(length, rel=1e-5)
    assert fsdp.full_state_dict(model, keep=False) == {}
    whole = fsdp.full_state_dict(model, keep=True)
    assert torch.equal(whole["weight"], model.weight)
    assert whole["weight"].data_ptr() != model.weight.data_ptr()
    tensor = torch.ones(3)
    assert fsdp.share_like(tensor, tensor) is tensor and fsdp.local(tensor) is not None


def test_a_segment_is_what_it_was_when_it_was_taken():
    segment = truncated_bptt.Segment(1, 0, True, None)
    with pytest.raises(FrozenInstanceError):
        segment.first = False


def test_states_of_rows_are_found_again_by_their_numbers():
    states = [((4, 0), {"h": torch.tensor([[4.0], [0.0]])}), ((2,), {"h": torch.tensor([[2.0]])})]
    file = truncated_bptt.stack_rows(states)
    assert file["row"].tolist() == [4, 0, 2] and file["state.h"].shape == (3, 1)
    other = truncated_bptt.stack_rows([((1, 3), {"h": torch.tensor([[1.0], [3.0]])})])
    rows = truncated_bptt.select_rows([file, other], range(4), torch.device("cpu"))
    assert rows["h"].flatten().tolist() == [0.0, 1.0, 2.0, 3.0] and rows.keys() == {"h"}


def test_numbers_of_few_bits_are_carried_as_float32():
    widened = truncated_bptt._widened
    assert widened(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32
    for kind in (torch.float32, torch.float64, torch.int16, torch.bool):
        assert widened(torch.ones(1, dtype=kind)).dtype == kind


def test_repeating_needs_another_system_and_a_folder():
    for words, missing in (([], "system"), (["system=x"], "out"), (["system=", "out=y"], "system")):
        with pytest.raises(ConfigError, match=f"'{missing}=' is missing"):
            repeat.repeat("quickstart-rwkv7", words)
    with pytest.raises(ConfigError, match="'z' is no key=value"):
        repeat.repeat("quickstart-rwkv7", ["system=x", "out=y", "z"])


def test_recipes_of_stages_stand_beside_the_run(monkeypatch, tmp_path):
    stages = [
        {"data": None, "steps": 1, "recipe": {"seed": 7, "gone": 1, "out": "there", "data": "d"}},
        {"data": None, "steps": 2, "recipe": {"seed": 8, "weights": "w", "held_out": "h"}},
    ]
    monkeypatch.setattr(repeat, "stages_of", lambda name: stages)
    monkeypatch.setattr(repeat, "_here", lambda source, stage: f"{stage}: {source}")
    monkeypatch.setattr(repeat, "corpus_files", lambda folder: [])
    first, second = repeat.recipes("arm", "mine", tmp_path / "run")
    assert first[0] == "Stage 1 of 2 of arm's training."
    assert first[1] == tmp_path / "run-stage-1.yaml" and second[1] == tmp_path / "run-stage-2.yaml"
    assert first[2] == {
        "seed": 7, "data": ["stage 1 of arm: d"], "system": {"base": "mine", "weights": None},
        "out": str(tmp_path / "run-stage-1"),
    }  # fmt: skip
    assert second[2]["weights"] == str(tmp_path / "run-stage-1" / "export")
    assert second[2]["out"] == str(tmp_path / "run")
    assert second[2]["held_out"] == "stage 2 of arm: h" and second[2]["data"] == []
    files = repeat.write_recipes([first, second])
    assert files[0].read_text().startswith("# Stage 1 of 2") and len(files) == 2
    here = tmp_path / "mine.yaml"
    here.write_text("")
    monkeypatch.chdir(tmp_path)
    first, _ = repeat.recipes("arm", "mine.yaml", Path("run"))
    assert first[2]["system"]["base"] == str(here) and math.isfinite(first[2]["seed"])


@pytest.mark.parametrize("digest", [None, "same", "other"])
def test_other_data_of_the_same_name_is_told(monkeypatch, capsys, digest, tmp_path):
    monkeypatch.setattr(repeat, "_here", lambda source, stage: str(tmp_path / source))
    monkeypatch.setattr(repeat, "corpus_files", lambda folder: [folder / "a", folder / "b"])
    monkeypatch.setattr(repeat, "hash_files", lambda files: "same" if len(files) == 4 else "few")
    data = repeat._data({"data": ["x", "y"], "held_out": ["z"]}, digest, "stage 1")
    assert data == {
        "data": [str(tmp_path / "x"), str(tmp_path / "y")], "held_out": [str(tmp_path / "z")],
    }  # fmt: skip
    assert ("trained on other data" in capsys.readouterr().err) is (digest == "other")
    assert repeat._data({"data": "x", "held_out": 0.1}, None, "s") == {
        "data": [str(tmp_path / "x")], "held_out": 0.1,
    }  # fmt: skip
    assert repeat._data({}, None, "s") == {"data": []}


def test_recorded_data_is_found_here_or_among_the_bundled_tokens(tmp_path):
    assert repeat._here(str(tmp_path), "s") == str(tmp_path)
    with pytest.raises(DataError, match="data of stage 1 is not here") as caught:
        repeat._here("/somewhere/nothing-of-that-name", "stage 1")
    assert caught.value.where == "/somewhere/nothing-of-that-name"
    bundled = sorted((repeat.bundled() / "tokens").glob("*/*"))[0]
    found = repeat._here(f"/elsewhere/{bundled.name}", "s")
    assert (repeat.bundled() / found).name == bundled.name and not Path(found).is_absolute()
