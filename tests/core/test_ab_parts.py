"""The A/B: what it refuses, the order of its work, how failures count, and going on."""

import json

import numpy as np
import pytest
import torch
from tiny_system import tiny_system

from wishbone.core.config.compose import Config
from wishbone.core.contract.errors import CapabilityError, ConfigError, DataError, UsageError
from wishbone.core.evaluate import ab
from wishbone.core.evaluate.experiment import config_diff, generate, timing
from wishbone.core.evaluate.experiment.arm_engines import accelerate_alike, refuse_mixed
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import Arm, Plan, Prompt
from wishbone.core.evaluate.record import record_json
from wishbone.core.evaluate.statistics import compare
from wishbone.core.evaluate.statistics.metrics import choose


def plan(prompts=4, seeds=1, quick=False, **configs):
    configs = configs or {"old": {}, "new": {}}
    base = {"backbone": {"name": "x"}, "decoder": {"name": "d", "width": 4}}
    return Plan(
        name="test",
        about="",
        arms=[Arm(key, key, Config(base | value)) for key, value in configs.items()],
        prompts=[Prompt(f"{i:03d}", f"sentence {i}") for i in range(prompts)],
        seeds=seeds,
        seed=1,
        vary=["backbone"],
        metrics=choose(),
        voice=None,
        reference=None,
        quick=quick,
    )


def items_of(tmp_path, given, values):
    """Items whose word errors are ``values[arm][prompt]`` of 10 words; None is a failure."""
    items = Items(tmp_path / "items.jsonl")
    for arm, row in values.items():
        for prompt, errors in zip(given.prompts, row, strict=True):
            told = {"words": 10, "errors": 10 if errors is None else errors, "dnsmos": 3.0}
            failure = "empty" if errors is None else ""
            items.add(arm, prompt.key, 0, {**told, "failure": failure, "rtf": 0.2})
    return items


def test_a_difference_beyond_what_is_varied_is_refused_unless_allowed():
    given = plan(
        old={"backbone": {"name": "a"}},
        new={"backbone": {"name": "b", "layers": 2}, "decoder": {"name": "d", "width": 8}},
    )
    found = config_diff.differences(given)
    assert {each.key for each in found if each.meant} == {"backbone.name", "backbone.layers"}
    with pytest.raises(ConfigError, match="decoder.width") as caught:
        config_diff.refuse_confounds(found, allow=False)
    assert "--allow" in caught.value.do
    assert [each.key for each in config_diff.refuse_confounds(found, allow=True)] == [
        "decoder.width"
    ]


def test_equal_arms_that_differ_in_the_backbone_alone_pass():
    given = plan(old={"backbone": {"name": "a"}}, new={"backbone": {"name": "b"}})
    assert config_diff.refuse_confounds(config_diff.differences(given), allow=False) == []


def test_different_training_data_is_a_confound(tmp_path):
    arms = {}
    for name, data in (("old", "x"), ("new", "y")):
        folder = tmp_path / name
        folder.mkdir()
        notes = {"steps": 5, "recipe": {"learning_rate": 1e-3, "out": name}}
        said = {"data": data, "seeds": {"train": 1}, "notes": notes}
        (folder / "provenance.json").write_text(json.dumps(said))
        arms[name] = {"weights": str(folder)}
    unmeant = [e.key for e in config_diff.differences(plan(**arms)) if not e.meant]
    assert unmeant == ["training.data"]


def test_arms_may_begin_with_different_weights_that_were_trained_alike(tmp_path):
    def unmeant(*steps):
        arms = {}
        for name, count in zip(("old", "new"), steps, strict=True):
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            before = [{"data": "w", "seeds": {"train": 2}, "steps": count}] if count else []
            notes = {"steps": 5, "recipe": {"weights": f"runs/{name}"}, "before": before}
            record = {"data": "x", "seeds": {"train": 1}, "notes": notes}
            (folder / "provenance.json").write_text(json.dumps(record))
            arms[name] = {"weights": str(folder)}
        given = plan(**arms)
        found = [e for e in config_diff.differences(given) if not e.meant]
        said.append(config_diff.unequal_training(given, found))
        return [e.key for e in found]

    said = []
    assert unmeant(7, 7) == [] and said == [""]
    # earlier training is budget: it is stated, with all stages, and refuses nothing
    assert unmeant(7, 8) == ["training.before"]
    assert "old: 12 steps in 2 stages (7 + 5)" in said[-1] and "new: 13 steps" in said[-1]
    # where nobody knows how they were trained, other weights are another beginning
    assert unmeant(0, 0) == ["training.recipe.weights"]


def own_arm(tmp_path, **changes):
    """What ``wishbone train quickstart`` leaves, beside a bundled arm."""
    from wishbone.core.config.compose import bundled

    bundled_record = bundled() / "pretrained" / "quickstart-rwkv7" / "provenance.json"
    record = json.loads(bundled_record.read_text())
    notes = {"steps": 1600, "utterances": record["notes"]["utterances"]}
    recipe = {"data": ["elsewhere/train.parquet"], "held_out": "elsewhere/held-out.parquet",
              "steps": 1600, "weight_decay": 0.05, "batch_positions": 4096, "seed": 1,
              "learning_rate": 2e-3, "schedule": "trapezoid", "decay_share": 0.5,
              "ema": 0.998}  # fmt: skip
    notes["recipe"] = recipe | changes.pop("recipe", {})
    own = {"data": record["data"], "seeds": {"train": 1}, "notes": notes} | changes
    (tmp_path / "provenance.json").write_text(json.dumps(own))
    return plan(bundled={"weights": "pretrained/quickstart-rwkv7"}, mine={"weights": str(tmp_path)})


def test_an_own_arm_beside_a_bundled_one_is_compared_and_its_budget_stated(tmp_path):
    given = own_arm(tmp_path)
    found = config_diff.differences(given)
    assert config_diff.refuse_confounds(found, allow=False) == []
    line = config_diff.unequal_training(given, found)
    assert "bundled: 5,300 steps in 5 stages (1,600 + 800 + 900 + 1,400 + 600)" in line
    assert "mine: 1,600 steps, 6.6 M positions" in line and "decay_share" in line
    # the bundled arms' last stage was by Muon, this training by AdamW
    assert "optimizer" in line
    # what was learned from, and what from it, is no budget
    for key, change in (("data", {"data": "y"}), ("freeze", {"recipe": {"freeze": ["head"]}})):
        other = config_diff.differences(own_arm(tmp_path, **change))
        with pytest.raises(ConfigError, match=key):
            config_diff.refuse_confounds(other, allow=False)


def test_the_same_tensors_in_another_folder_are_no_difference(tmp_path):
    for name, data in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(data)

    def differ(one, other):
        folders = [{"decoder": {"name": "d", "weights": str(tmp_path / f)}} for f in (one, other)]
        return [e.key for e in config_diff.differences(plan(old=folders[0], new=folders[1]))]

    assert differ("a", "b") == []
    assert differ("a", "c") == differ("a", "missing") == ["decoder.weights"]


def test_weights_may_differ_only_with_a_part_that_is_trained():
    given = plan(old={"weights": "one"}, new={"weights": "other"})
    assert all(each.meant for each in config_diff.differences(given))
    given.vary = ["sampling"]
    assert [e.key for e in config_diff.differences(given) if not e.meant] == ["weights"]


def test_an_arm_whose_training_nobody_recorded_is_flagged(tmp_path):
    (tmp_path / "provenance.json").write_text(json.dumps({"data": "x"}))
    given = plan(old={"weights": str(tmp_path)}, new={"weights": str(tmp_path / "elsewhere")})
    unmeant = [e for e in config_diff.differences(given) if not e.meant]
    assert [(e.key, e.values) for e in unmeant] == [
        ("training", {"old": "recorded", "new": "unknown"})
    ]


def test_an_untrained_arm_is_refused_unless_allowed():
    given = plan(old={"weights": "one"}, new={})
    with pytest.raises(ConfigError, match="new, which is therefore untrained"):
        config_diff.refuse_untrained(given, allow=False)
    config_diff.refuse_untrained(given, allow=True)


def test_seeds_follow_from_the_prompt_and_not_from_the_run():
    short, long = plan(prompts=2), plan(prompts=4)
    assert short.seed_of(short.prompts[1], 0) == long.seed_of(long.prompts[1], 0)
    every = {long.seed_of(p, r) for p in long.prompts for r in range(3)}
    assert len(every) == 12
    assert all(0 <= seed < 2**31 for seed in every)


def test_arms_take_turns_forwards_and_backwards():
    turns = [(prompt.key, orders) for prompt, _, orders in timing.schedule(plan(prompts=2))]
    forwards, backwards = ["old", "new"], ["new", "old"]
    assert turns == [
        ("000", [forwards, backwards, forwards]),
        ("001", [backwards, forwards, backwards]),
    ]


def test_an_item_is_timed_and_its_codes_counted():
    generation, audio = generate.speak(tiny_system(), "some words here", 3)
    assert len(audio) == generation.codes * 960
    assert 0 < generation.first_audio <= 1000 * generation.computing + 1
    # seconds of computing are rounded to tenths of a millisecond, and a tiny system is quick
    assert abs(generation.rtf * generation.seconds - generation.computing) < 1.5e-3
    # the names that metrics and files know
    row = record_json(generation)
    assert row["made"] == generation.computing and "computing" not in row
    assert list(row)[:3] == ["seed", "made", "seconds"] and "stall" in row


def test_the_same_seed_gives_the_same_item_and_another_another():
    system = tiny_system()
    one, two, three = (generate.speak(system, "some words", seed)[1] for seed in (3, 3, 4))
    assert np.array_equal(one, two)
    assert len(one) != len(three) or not np.array_equal(one, three)


def test_an_error_of_a_system_is_a_failed_item(monkeypatch):
    def broken(*_):
        yield torch.zeros(100)
        raise RuntimeError("no more")

    monkeypatch.setattr(generate, "stream", broken)
    generation, _ = generate.speak(tiny_system(), "some words", 0)
    assert generation.failure == "error"
    assert "no more" in generation.error
    assert "rtf" not in record_json(generation)


def test_speech_that_only_the_length_rule_stopped_is_a_failure(monkeypatch):
    from wishbone.core.speak.utterance import Utterance

    def endless(system, text, voice, seed, record):
        record.append(Utterance(text, reason="length"))
        yield torch.rand(24_000)

    monkeypatch.setattr(generate, "stream", endless)
    assert generate.speak(tiny_system(), "some words", 0)[0].failure == "never stopped"


def test_failures_count_as_worst_and_stay_in(tmp_path):
    given = plan()
    items = items_of(tmp_path, given, {"old": [1, 1, 1, 1], "new": [0, 0, 0, None]})
    found = compare.compare(items, given, given.metrics["wer"], "new", "old")
    assert found.outcome.units == 4
    assert found.value == pytest.approx(25)
    assert found.value_baseline == pytest.approx(10)
    result = compare.analyse(items, given)
    assert result.failures["new"].why == {"empty": 1}
    # dropping the failure would have turned the result round
    assert found.outcome.difference > 0


def test_a_clear_difference_gets_its_verdict_and_quick_gets_none(tmp_path):
    for quick, expected in ((False, "better"), (True, "none")):
        given = plan(prompts=12, quick=quick)
        values = {"old": [4, 5, 6] * 4, "new": [1, 2, 1] * 4}
        items = items_of(tmp_path / str(quick), given, values)
        found = compare.compare(items, given, given.metrics["wer"], "new", "old")
        assert found.outcome.verdict == expected
        assert found.outcome.high < 0
        assert found.outcome.p < 0.01


def test_too_few_prompts_settle_nothing_however_clear(tmp_path):
    for count, expected in ((5, "inconclusive"), (6, "better")):
        given = plan(prompts=count)
        values = {"old": [5, 6, 7, 5, 6, 7][:count], "new": [1] * count}
        items = items_of(tmp_path / str(count == 6), given, values)
        found = compare.compare(items, given, given.metrics["wer"], "new", "old")
        assert found.outcome.high < 0
        assert found.outcome.verdict == expected
        # and no number of further prompts is guessed from so few
        assert found.outcome.more_prompts is None and found.sizes is None


@pytest.fixture(autouse=True)
def folders(tmp_path):
    for name in ("True", "False"):
        (tmp_path / name).mkdir()


def test_ratios_are_geometric_and_failed_items_have_no_speed(tmp_path):
    given = plan(prompts=3)
    items = items_of(tmp_path, given, {"old": [1, 1, 1], "new": [1, 1, None]})
    for key, factor in (("000", 0.1), ("001", 0.4)):
        items.add("new", key, 0, {"rtf": factor})
    found = compare.compare(items, given, given.metrics["rtf"], "new", "old")
    assert found.outcome.difference == pytest.approx(1.0)
    assert (found.outcome.units, found.left_out) == (2, 1)


def test_what_was_written_is_read_again_also_after_a_kill(tmp_path):
    path = tmp_path / "items.jsonl"
    items = Items(path)
    items.add("old", "000", 0, {"seed": 5, "heard": None})
    items.add("old", "000", 0, {"heard": "hello"})
    with path.open("a") as file:
        file.write('{"arm": "old", "prompt": "001", "rep')
    again = Items(path)
    assert again.get("old", "000", 0).row == {
        "arm": "old", "prompt": "000", "repeat": 0, "seed": 5, "heard": "hello",
    }  # fmt: skip
    assert again.get("old", "001", 0).row == {}


def test_a_folder_of_another_run_is_not_touched(tmp_path):
    out = tmp_path / "out"
    ab._claim(plan(), out)
    ab._claim(plan(), out)
    with pytest.raises(UsageError, match="other systems"):
        ab._claim(plan(old={}, other={}), out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(UsageError, match="no A/B"):
        ab._claim(plan(), tmp_path / "mine")


class Fast:
    """Stands for a model whose parts have some engines."""

    def __init__(self, *engines):
        self.engines = engines

    def accelerate(self, engine="auto", weights="float32"):
        engine = self.engines[0] if engine == "auto" else engine
        if engine.split(",")[0] not in [name.split(",")[0] for name in self.engines]:
            raise CapabilityError("It has no such engine.", engine, "Take another.")
        return next(name for name in self.engines if name.split(",")[0] == engine.split(",")[0])


def test_all_arms_get_the_best_engine_that_all_can_have():
    one, other = Fast("native", "eager"), Fast("native", "graph", "eager")
    choice = accelerate_alike({"one": one, "other": other}, "auto")
    assert choice.used == {"one": "native", "other": "native"} and choice.note == ""
    slow = Fast("eager, head native", "eager")
    choice = accelerate_alike({"one": one, "slow": Fast("eager")}, "auto")
    assert choice.used == {"one": "eager", "slow": "eager"} and choice.engine == "eager"
    assert "one: native; slow: eager" in choice.note
    # one that takes C++ only when asked for, such as a large model
    large = Fast("eager", "native")
    choice = accelerate_alike({"one": one, "large": large}, "auto")
    assert set(choice.used.values()) == {"native"} and choice.engine == "native"
    # asked for by name, a head that cannot follow is named
    choice = accelerate_alike({"one": one, "odd": Fast("native, head eager")}, "native")
    assert "one: native; odd: native, head eager" in choice.note
    with pytest.raises(CapabilityError):
        accelerate_alike({"one": one, "slow": slow}, "native")


def test_a_run_does_not_go_on_with_another_engine(tmp_path):
    items = Items(tmp_path / "items.jsonl")
    items.add("one", "000", 0, {"seed": 1})
    items.add("other", "000", 0, {"seed": 1, "engine": "native"})
    refuse_mixed(items, {"one": "eager", "other": "native"}, ["one", "other"])
    with pytest.raises(UsageError, match="'other' were made on the engine 'native'"):
        refuse_mixed(items, {"one": "eager", "other": "eager"}, ["one", "other"])
    # what was made before engines were noted is plain PyTorch's
    with pytest.raises(UsageError, match="'one' were made on the engine 'eager'"):
        refuse_mixed(items, {"one": "native", "other": "native"}, ["one", "other"])


@pytest.mark.parametrize("name", ["/etc/passwd", "../other/a.flac", "audio/../../a.flac"])
def test_a_recording_outside_of_the_run_is_refused(tmp_path, name):
    row = {"arm": "old", "prompt": "000", "repeat": 0, "audio": name}
    (tmp_path / "items.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="outside of the run's folder"):
        Items(tmp_path / "items.jsonl")
