"""What a run tells and keeps beside its weights: log, events, samples, origin, a stop by hand."""

import json
import signal
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from tiny_corpus import write_recipe

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")

from wishbone.core.audio.files import Audio, read  # noqa: E402
from wishbone.core.cli.train import main  # noqa: E402
from wishbone.core.contract.errors import STOPPED, ConfigError  # noqa: E402
from wishbone.core.train import logger, loop  # noqa: E402
from wishbone.core.train import run as module  # noqa: E402
from wishbone.core.train.distributed.processes import ProcessGroup  # noqa: E402
from wishbone.core.train.recipe import Recipe, read_recipe  # noqa: E402
from wishbone.core.train.run_folder import RunFolder  # noqa: E402

DEFAULTS = {
    "system": None, "weights": None, "data": None, "out": "", "held_out": 0.02,
    "held_out_limit": 500, "objective": {"name": "codes"}, "freeze": [], "steps": 10_000,
    "max_minutes": 0.0, "batch_positions": 8192, "accumulate": 1, "segment_positions": 0,
    "carry": True, "shard": "none", "optimizer": "adamw", "muon_rate": 3.0,
    "drop": dict.fromkeys(
        ("text", "prompt", "prompt_text", "prompt_audio", "speaker", "instruct"), 0.0
    ),
    "learning_rate": 1e-3, "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-18,
    "clip": 1.0, "warmup_steps": 100, "schedule": "cosine", "final_rate": 0.0, "decay_share": 0.25,
    "ema": 0.999, "precision": "auto", "seed": 1, "device": "auto", "log_every": 20,
    "evaluate_every": 500, "checkpoint_every": 0, "checkpoint_minutes": 10.0, "keep": 2,
    "tensorboard": False, "samples": [], "reference": "",
}  # fmt: skip


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_field_that_a_record_lacks_had_the_value_it_has_today():
    """Records of earlier runs leave out what was added since; another default would change them."""
    assert asdict(Recipe()) == DEFAULTS


def test_without_held_out_data_there_is_no_held_out_loss(tmp_path):
    assert main([str(write_recipe(tmp_path)), "steps=2", "held_out=0.0"]) == 0
    entries = log_of(tmp_path / "run")
    assert len(entries) == 2 and all("loss" in entry for entry in entries)


def test_the_origin_of_an_export_has_the_last_held_out_loss(tmp_path):
    assert main([str(write_recipe(tmp_path)), "steps=2", "evaluate_every=0"]) == 0
    last = log_of(tmp_path / "run")[-1]
    origin = json.loads((tmp_path / "run" / "export" / "provenance.json").read_text())
    assert last["step"] == 2 and origin["notes"]["held_out_loss"] == pytest.approx(last["held_out"])


def test_events_are_written_where_they_are_asked_for(tmp_path):
    pytest.importorskip("tensorboard", reason="pip install 'wishbone-tts[train]' for events")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = str(write_recipe(tmp_path))
    assert main([recipe, f"out={tmp_path}/plain", "steps=3"]) == 0
    assert not (tmp_path / "plain" / "tensorboard").exists()
    assert main([recipe, f"out={tmp_path}/seen", "steps=3", "tensorboard=true"]) == 0
    events = EventAccumulator(str(tmp_path / "seen" / "tensorboard"))
    events.Reload()
    expected = [entry["loss"] for entry in log_of(tmp_path / "seen") if "loss" in entry]
    scalars = events.Scalars("loss")
    assert [scalar.step for scalar in scalars] == [1, 2, 3]
    assert [scalar.value for scalar in scalars] == pytest.approx(expected, rel=1e-6)
    assert {"rate", "norm", "held_out"} <= set(events.Tags()["scalars"])


def test_a_sample_of_a_step_that_is_repeated_replaces_the_old_one(tmp_path, monkeypatch):
    model = SimpleNamespace(load_state_dict=lambda weights: None)
    monkeypatch.setattr(logger, "build_system", lambda config: SimpleNamespace(model=model))
    audio = Audio(torch.linspace(-0.5, 0.5, 2400), 24_000)
    monkeypatch.setattr(logger.text_to_speech, "say", lambda system, sentence: audio)
    target = tmp_path / "samples" / "step-00000002-0.wav"
    target.parent.mkdir()
    target.write_bytes(b"what a killed run left")
    logger.speak({}, {}, "We go.", target)
    assert read(target).seconds == pytest.approx(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_and_the_same_command_goes_on(
    tmp_path, monkeypatch, capsys, number
):
    complete = loop.Trainer._train_step

    def interrupted(self):
        complete(self)
        if self.step == 3:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    recipe = str(write_recipe(tmp_path))
    monkeypatch.setattr(loop.Trainer, "_train_step", interrupted)
    assert main([recipe]) == STOPPED
    assert signal.getsignal(number) == before
    said = capsys.readouterr().err
    assert "stopping after this step" in said and "stopped at step 3" in said
    run = tmp_path / "run"
    assert max(path.name for path in (run / "checkpoints").iterdir()) == "step-00000003"
    assert not (run / "export").exists()
    monkeypatch.setattr(loop.Trainer, "_train_step", complete)
    assert main([recipe]) == 0 and (run / "export").is_dir()


def test_a_signal_in_the_last_step_is_not_forgotten(tmp_path, monkeypatch, capsys):
    complete, recipe = loop.Trainer._train_step, str(write_recipe(tmp_path))

    def interrupted(self):
        complete(self)
        if self.step == self.recipe.steps:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(loop.Trainer, "_train_step", interrupted)
    assert main([recipe]) == STOPPED
    assert (tmp_path / "run" / "export").is_dir()
    assert "the run is done" in capsys.readouterr().err


def test_a_second_signal_ends_at_once():
    with module._Interruptions() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_a_folder_belongs_to_one_start_one_teacher_and_one_size_of_step(tmp_path):
    recipe = Recipe(system={"base": "x"}, data="d", batch_positions=100, accumulate=2)

    def claim(name, data="hash", processes=1, about=None, start="", recipe=recipe):
        RunFolder(tmp_path / name).claim(recipe, data, False, processes, about, start)

    claim("begun", start="one", about={"teacher": "t"})
    claim("begun", start="one", about={"teacher": "t"})
    for words, field in (
        ({"start": "two", "about": {"teacher": "t"}}, "start_weights"),
        ({"start": "one", "about": {"teacher": "u"}}, "learned_from"),
        ({"start": "one", "about": {"teacher": "t"}, "data": "other"}, "data_hash"),
        ({"start": "one", "about": {"teacher": "t"}, "processes": 2}, "positions_per_step"),
    ):
        with pytest.raises(ConfigError, match=f"other values of: {field}"):
            claim("begun", **words)
    # the same steps by two processes, and a record from before the start was written down
    claim("begun", start="one", about={"teacher": "t"}, processes=2,
          recipe=replace(recipe, accumulate=1))  # fmt: skip
    claim("older")
    assert "start_weights" not in (tmp_path / "older" / "config.yaml").read_text()
    claim("older", start="one")


@pytest.mark.parametrize("written", [None, "{", "5", "null", b"\xff"])
def test_weights_whose_origin_nobody_wrote_down_have_none(tmp_path, written):
    if written is not None:
        data = written if isinstance(written, bytes) else written.encode()
        (tmp_path / "provenance.json").write_bytes(data)
    system = {"weights": str(tmp_path)}
    assert module._starting_provenance(system) == {}
    assert module._earlier_trainings(system) == [] and module._positions_before(system) == 0


def test_the_origin_of_the_weights_a_run_begins_with_is_counted_on(tmp_path):
    notes = {"steps": 7, "positions": 100, "positions_before": 20, "before": [{"steps": 3}],
             "recipe": {"seed": 4, "out": "x", "weights": "y", "ema": 0.5}}  # fmt: skip
    origin = {"notes": notes, "data": "hash", "seeds": {"train": 4}}
    (tmp_path / "provenance.json").write_text(json.dumps(origin))
    system = {"weights": str(tmp_path)}
    assert module._positions_before(system) == 120
    first, last = module._earlier_trainings(system)
    assert first == {"steps": 3}
    assert last == {"data": "hash", "seeds": {"train": 4}, "steps": 7,
                    "recipe": {"seed": 4, "ema": 0.5}}  # fmt: skip
    assert module._starting_provenance({}) == {} == module._starting_provenance({"weights": None})


def test_a_run_tells_where_it_stands_beside_another(tmp_path, capsys):
    recipe = str(write_recipe(tmp_path))
    assert main([recipe, f"out={tmp_path / 'first'}", "evaluate_every=2"]) == 0
    before = {
        row["step"]: row["held_out"] for row in log_of(tmp_path / "first") if "held_out" in row
    }
    words = [recipe, "evaluate_every=1", "learning_rate=1e-4", f"reference={tmp_path / 'first'}"]
    capsys.readouterr()
    assert main(words) == 0
    rows = {row["step"]: row for row in log_of(tmp_path / "run") if "held_out" in row}
    # between two steps on a line, and nothing before the first
    between = {3: (before[2] + before[4]) / 2, 5: (before[4] + before[6]) / 2}
    assert "reference" not in rows[1]
    for step, loss in (before | between).items():
        assert rows[step]["reference"] == pytest.approx(loss)
    told = capsys.readouterr().err
    last = rows[6]["held_out"]
    assert f"held-out loss {last:.4f}  reference {before[6]:.4f} ({last - before[6]:+.4f})" in told
    assert "other data" not in told and last > before[6]


def test_a_reference_on_other_data_says_so(tmp_path, capsys):
    curve = tmp_path / "curve.json"
    curve.write_text(json.dumps({"data_hash": "another", "held_out": {"1": 4.5, "2": 4.0}}))
    assert main([str(write_recipe(tmp_path)), "steps=2", f"reference={curve}"]) == 0
    told = capsys.readouterr().err
    assert "the reference learned from other data" in told and "reference 4.0000" in told


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot be read"), ("{", "cannot be read"), ('{"held_out": 3}', "cannot be read"),
     ('{"held_out": {"a": 1}}', "cannot be read"), ('{"held_out": {}}', "no held-out loss")],
)  # fmt: skip
def test_a_reference_that_is_none_leaves_nothing_behind(tmp_path, capsys, content, told):
    curve = tmp_path / "curve.json"
    if content is not None:
        curve.write_text(content)
    with pytest.raises(ConfigError, match=told):
        module.run(str(write_recipe(tmp_path)), [f"reference={curve}"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arm", ["rwkv7", "transformer"])
def test_bundled_recipes_have_curves_of_their_own(arm):
    recipe, _ = read_recipe(f"quickstart-{arm}")
    curve = logger.ReferenceCurve.read(recipe.reference)
    # untrained, all codes of 6 561 are as likely: 8.8 nats
    assert 8.8 > curve.at(100) > curve.at(125) > curve.at(200) > 3
    assert curve.at(200) > curve.at(400) > curve.at(800) > curve.at(recipe.steps) > 2
    assert curve.at(99) is None and curve.at(recipe.steps + 1) is None
    # of a short training, which is the same until its learning rate falls: one was in float32, the
    # other in bfloat16
    short = logger.ReferenceCurve.read(f"train/curves/quickstart-{arm}-400.json")
    assert short.at(100) == curve.at(100)
    assert short.at(200) == pytest.approx(curve.at(200), abs=0.05)
    assert short.at(200) > short.at(300) > short.at(400)


def test_a_reference_between_two_steps_is_nearer_to_the_nearer_one():
    curve = logger.ReferenceCurve({20: 3.0, 10: 4.0})
    assert [curve.at(step) for step in (9, 10, 12, 20, 21)] == [
        None,
        4.0,
        pytest.approx(3.8),
        3.0,
        None,
    ]


def test_one_process_alone_shares_nothing_out(tmp_path, monkeypatch):
    """``shard: full`` names what many processes do; a part of one is all of it."""
    monkeypatch.setattr(loop, "shard_", lambda *given: pytest.fail("shared out"))
    recipe = str(write_recipe(tmp_path))
    for shard in ("none", "full"):
        words = [recipe, "steps=2", f"out={tmp_path / shard}", f"shard={shard}"]
        assert main(words) == 0
    losses = [[row.get("loss") for row in log_of(tmp_path / each)] for each in ("none", "full")]
    assert losses[0] == losses[1] and losses[0][0] is not None


@pytest.mark.parametrize(
    ("shard", "size", "shared"),
    [("none", 1, False), ("full", 1, False), ("none", 2, False), ("full", 2, True)],
)
def test_many_processes_share_out_where_they_are_told_to(
    tmp_path, monkeypatch, shard, size, shared
):
    class Done(Exception):
        pass

    seen = []

    def build(trainer):
        seen.append(trainer.sharded)
        raise Done

    monkeypatch.setattr(loop.Trainer, "_build_objective", build)
    recipe, system = read_recipe(str(write_recipe(tmp_path)), [f"shard={shard}"])
    group = ProcessGroup(0, size, torch.device("cpu"))
    with pytest.raises(Done):
        loop.Trainer(recipe, system, None, None, group, None)
    assert seen == [shared]
