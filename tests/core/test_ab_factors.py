"""An A/B of arms that were trained several times and are cells of a table."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import ab_results
import numpy as np
import pytest
from test_ab_parts import plan
from test_charts import texts

from wishbone.core.config.compose import Config
from wishbone.core.contract.errors import ConfigError, DataError
from wishbone.core.contract.extensions.metric import HeldOut, UtteranceLosses
from wishbone.core.evaluate.experiment import config_diff, timing
from wishbone.core.evaluate.experiment.arms import Arm, factor_levels
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import read_plan
from wishbone.core.evaluate.measure import held_out_loss
from wishbone.core.evaluate.report import figures, markdown, wording
from wishbone.core.evaluate.result import to_json
from wishbone.core.evaluate.statistics import compare
from wishbone.core.evaluate.statistics.effects import questions
from wishbone.core.evaluate.statistics.metrics import choose, choose_listening
from wishbone.core.report.json_file import as_text, write_json

CONFIGS = Path(__file__).parents[2] / "configs" / "ab"
FACTORS = {"backbone": ["r", "t"], "layout": ["u", "w"]}
SYSTEM = {"backbone": {"name": "x"}, "layout": {"name": "y"}, "decoder": {"name": "d"}}


def crossed(trainings=3, prompts=8, **changed):
    """A plan of four arms; ``changed`` are fields of it."""
    arms = []
    for backbone in FACTORS["backbone"]:
        for layout in FACTORS["layout"]:
            config = SYSTEM | {"backbone": {"name": backbone}, "layout": {"name": layout}}
            configs = [Config(config | {"weights": f"{n}"}) for n in range(trainings)]
            levels = {"backbone": backbone, "layout": layout}
            key = f"{backbone}-{layout}"
            arms.append(Arm(key, key, configs[0], tuple(configs[1:]), levels))
    fields = {"arms": arms, "factors": FACTORS, "vary": ["backbone", "layout"]}
    return replace(plan(prompts=prompts), **(fields | changed))


def told(tmp_path, given, errors, seed=0):
    """Items in which an arm makes about ``errors[arm]`` errors in 20 words."""
    items, random = Items(tmp_path / "items.jsonl"), np.random.default_rng(seed)
    hard = random.integers(0, 3, len(given.prompts))
    for arm in given.arms:
        for checkpoint in arm.checkpoints:
            for prompt, base in zip(given.prompts, hard, strict=True):
                count = int(base + errors[arm.key] + random.integers(0, 2))
                values = {
                    "words": 20, "errors": count, "dnsmos": 3.0 - 0.01 * count, "failure": "",
                    "rtf": 0.1, "heard": "", "text": prompt.text,
                }  # fmt: skip
                items.add(checkpoint.key, prompt.key, 0, values)
    return items


def result_of(tmp_path, given, items):
    """The file of a result, with stand-ins for everything that is measured of real systems."""
    losses = {
        checkpoint.key: {key: [2.0 + 0.1 * n, 2.5, 3.0] for key in given.listening}
        for n, checkpoint in enumerate(given.checkpoints)
    }
    return write_json(tmp_path / "test.json", to_json(ab_results.result(given, items, losses)))


ADDITIVE = {"r-u": 1, "r-w": 3, "t-u": 5, "t-w": 7}


def test_every_checkpoint_speaks_and_is_named():
    given = crossed(trainings=2, prompts=8, rounds=1)
    orders = [order for _, _, (order,) in timing.schedule(given)]
    assert len(orders) == 8 and all(len(set(order)) == 8 for order in orders)
    # each is first once
    assert len({order[0] for order in orders}) == 8 and orders[0][0] == "r-u.1"
    assert [each.key for each in crossed(trainings=1).checkpoints][:2] == ["r-u", "r-w"]


def test_the_fingerprint_of_single_trainings_is_what_it_was():
    given = plan()
    said = {
        "arms": {arm.key: dict(arm.config) for arm in given.arms},
        "weights": {arm.key: {} for arm in given.arms},
        "seed": 1, "voice": None, "reference": [],
    }  # fmt: skip
    expected = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
    # of a run from before engines could be chosen, which was eager
    assert replace(given, engine="eager").fingerprint() == expected
    assert given.fingerprint() != expected


def test_an_arm_is_the_mean_of_its_trainings_and_each_is_shown(tmp_path):
    given = crossed()
    items = told(tmp_path, given, ADDITIVE)
    result = compare.analyse(items, given)
    each = result.checkpoints["t-u"]["wer"]
    assert len(each) == 3
    assert result.values["t-u"]["wer"].value == pytest.approx(np.mean(each))
    against = next(c for c in result.comparisons if c.arm == "t-u" and c.metric == "wer")
    base = np.mean(result.checkpoints["r-u"]["wer"])
    assert against.outcome.difference == pytest.approx(np.mean(each) - base)
    assert against.outcome.verdict == "worse" and against.outcome.freedom > 1
    assert result.failures["t-u"].items == 24


def test_the_factors_effects_are_found_and_their_interaction_is_not(tmp_path):
    given = crossed()
    result = compare.analyse(told(tmp_path, given, ADDITIVE), given)
    wer = {
        wording.effect_title(each): each.outcome for each in result.effects if each.metric == "wer"
    }
    assert wer["t - r (backbone)"].difference == pytest.approx(20, abs=3)
    assert wer["t - r (backbone)"].verdict == "worse"
    assert wer["w - u, t"].difference == pytest.approx(10, abs=3)
    crossing = wer["(t - r) with w, minus with u"]
    assert crossing.low < 0 < crossing.high
    assert crossing.verdict in ("inconclusive", "none beyond margin")


def test_an_interaction_is_found_where_there_is_one(tmp_path):
    given = crossed()
    items = told(tmp_path, given, {"r-u": 1, "r-w": 1, "t-u": 1, "t-w": 9})
    result = compare.analyse(items, given)
    kinds = {e.kind: e for e in result.effects if e.metric == "wer"}
    assert kinds["interaction"].outcome.difference == pytest.approx(40, abs=4)
    assert kinds["interaction"].outcome.verdict == "present"
    assert kinds["interaction"].p_holm <= 0.05


def test_ratios_have_effects_that_multiply(tmp_path):
    given = crossed()
    items = told(tmp_path, given, ADDITIVE)
    speed = {"r-u": 0.1, "r-w": 0.2, "t-u": 0.3, "t-w": 0.6}
    for arm in given.arms:
        for checkpoint in arm.checkpoints:
            for prompt in given.prompts:
                items.add(checkpoint.key, prompt.key, 0, {"rtf": speed[arm.key]})
    found = [e for e in compare.analyse(items, given).effects if e.metric == "rtf"]
    assert [e.outcome.difference for e in found[:3]] == pytest.approx([3, 2, 1])


def test_a_failed_item_of_one_training_counts_as_worst(tmp_path):
    given = crossed()
    items = told(tmp_path, given, ADDITIVE)
    before = compare.analyse(items, given).values["r-u"]["wer"].value
    items.add("r-u.2", "000", 0, {"failure": "empty"})
    after = compare.analyse(items, given)
    assert after.values["r-u"]["wer"].value > before
    assert after.failures["r-u"].why == {"empty": 1}


def test_held_out_losses_are_compared_like_prompts_and_kept(tmp_path, monkeypatch):
    given = crossed(listening=choose_listening({"loss": 0.1}), held_out=[tmp_path])
    asked = []

    def held_out(config, corpus, limit):
        asked.append(config)
        height = 1.0 + (config["backbone"]["name"] == "t") + 0.001 * int(config["weights"])
        losses = UtteranceLosses([height, height + 1] * 4, [3.0] * 8, [3.5] * 8)
        return HeldOut(None, None, [None] * 8, [None] * 8, losses)

    class Corpus:
        files = ()

    monkeypatch.setattr(held_out_loss, "read_corpus", lambda *_: Corpus())
    monkeypatch.setattr("wishbone.core.evaluate.measure.text_binding.held_out", held_out)
    heard = held_out_loss.measure(given, tmp_path, lambda values, _: values)
    assert len(asked) == 12 == len(heard)
    assert heard["r-u.1"]["loss"][0] == 1.0 and heard["r-u.1"]["binding"][0] == 2.5
    # a line that was cut short is measured again, the others are not
    path = tmp_path / held_out_loss.FILE
    path.write_text(path.read_text()[:-20])
    held_out_loss.measure(given, tmp_path, lambda values, _: values)
    assert len(asked) == 13
    result = compare.analyse(told(tmp_path, given, ADDITIVE), given, heard)
    main = next(e.outcome for e in result.effects if e.metric == "loss")
    assert main.difference == pytest.approx(1.0) and main.verdict == "worse"
    assert main.margin == 0.1
    other = replace(given, held_out_limit=5)
    held_out_loss.measure(other, tmp_path, lambda values, _: values)
    assert len(asked) == 25


def provenance(folder, steps, seed, data="x"):
    folder.mkdir(parents=True)
    notes = {"steps": steps, "recipe": {"learning_rate": 1e-3, "out": str(folder), "seed": seed}}
    said = {"data": data, "seeds": {"train": seed}, "notes": notes}
    (folder / "provenance.json").write_text(json.dumps(said))
    return str(folder)


def test_seeds_may_differ_within_an_arm_and_other_steps_are_stated(tmp_path):
    def arms(steps):
        made = []
        for key in ("r", "t"):
            folders = [
                provenance(tmp_path / f"{key}{steps}{n}", steps if key == "t" and n == 2 else 5, n)
                for n in (1, 2)
            ]
            configs = [Config(SYSTEM | {"backbone": {"name": key}, "weights": f}) for f in folders]
            made.append(Arm(key, key, configs[0], tuple(configs[1:])))
        return replace(plan(), arms=made)

    assert [e.key for e in config_diff.differences(arms(5)) if not e.meant] == []
    unmeant = [e for e in config_diff.differences(arms(6)) if not e.meant]
    assert [e.key for e in unmeant] == ["training.steps"]
    assert unmeant[0].values == {"r": 5, "t": [5, 6]}
    assert unmeant[0].budget and config_diff.refuse_confounds(unmeant, allow=False) == []


def test_a_table_with_a_hole_is_refused():
    arms = crossed().arms
    assert factor_levels(arms, "here") == FACTORS
    assert factor_levels(plan().arms, "here") == {}
    with pytest.raises(ConfigError, match="t and w"):
        factor_levels(arms[:-1], "here")


QUICKSTART = "quickstart-rwkv7, quickstart-rwkv7"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"arms: {{a: {{systems: [{QUICKSTART}]}}, b: quickstart-rwkv7}}", "numbers of check"),
        ("arms: {a: {systems: [quickstart-rwkv7, quickstart-transformer]}, b: x}", "backbone"),
        (f"arms: {{a: {{systems: [{QUICKSTART}], system: x}}, b: x}}", "which system"),
        ("arms: {a: x, b: y}\nfactors: {f: {a: {}, b: {}}}", "Both"),
        ("factors: {f: {a: {}}}\ntrain: {base: quickstart-rwkv7}", "two levels"),
        ("factors: {f: {a: {}, b: {}}}", "names no recipe"),
        ("factors: {f: {a: {}, b: 3}}\ntrain: {base: quickstart-rwkv7}", "level 'b'"),
        ("factors: {f: {a: {}, b: {}}}\ntrain: {base: quickstart-rwkv7, seeds: [1, 1]}", "seeds"),
        ("arms: {a: quickstart-rwkv7, b: quickstart-rwkv7}\nheld_out: nowhere", "nowhere"),
        ("arms: {a: quickstart-rwkv7, b: quickstart-rwkv7}\nmargins: {los: 1}", "los"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, text, said):
    path = tmp_path / "try.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_plan(path)


def test_one_and_several_trainings_of_a_named_system_are_read(tmp_path):
    path = tmp_path / "try.yaml"
    path.write_text(
        f"arms: {{a: {{systems: [{QUICKSTART}], levels: {{part: x}}}},"
        f" b: {{systems: [{QUICKSTART}], levels: {{part: y}}, set: [sampling.top_k=7]}}}}\n"
        "vary: [sampling]\nlimit: 2\nmargins: {wer: 3, loss: 1}"
    )
    given = read_plan(path)
    assert [each.key for each in given.checkpoints] == ["a.1", "a.2", "b.1", "b.2"]
    assert given.factors == {"part": ["x", "y"]}
    assert all(each.config["sampling"]["top_k"] == 7 for each in given.checkpoints[2:])
    assert given.metrics["wer"].margin == 3 and given.listening == {}
    # arms that are given need no training
    assert read_plan(path, trained=tmp_path / "train").trainings == []
    assert choose()["wer"].margin == 2


def test_the_page_is_made_of_the_json_and_of_nothing_else(tmp_path):
    given = crossed(listening=choose_listening())
    path = result_of(tmp_path, given, told(tmp_path, given, ADDITIVE))
    begin, end = (mark.format(name="test") for mark in (markdown.BLOCK, markdown.END))
    (tmp_path / "README.md").write_text(f"# Mine\n\n{begin}\nold\n{end}\nafter\n")
    written = markdown.write_page(path)
    assert [each.name for each in written] == ["test-figures.svg", "test-length.svg", "README.md"]
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("# Mine") and text.endswith("after\n") and "old" not in text
    check(path)
    # negative control: a number of the JSON that the page does not show is seen
    changed = json.loads(path.read_text())
    changed["values"]["r-u"]["wer"]["value"] += 1
    path.write_text(json.dumps(changed))
    with pytest.raises(AssertionError):
        check(path)


def test_the_json_is_read_again_as_it_was_and_lists_are_short(tmp_path):
    data = {"a": [1, 2.5, None], "b": [["x, y", "[ z\n ]"], []], "c": {"d": [{"e": [1, 2]}]}}
    text = as_text(data)
    assert json.loads(text) == data
    assert '"a": [1, 2.5, null]' in text and '"e": [1, 2]' in text


def test_a_copy_of_the_json_holds_nothing_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = crossed()
    path = result_of(tmp_path, given, told(tmp_path, given, ADDITIVE))
    result = json.loads(path.read_text()) | {"reference_folder": f"{tmp_path}/voices"}
    path.write_text(json.dumps(result))
    markdown.write_page(path, tmp_path / "docs")
    copy = (tmp_path / "docs" / "test.json").read_text()
    assert str(tmp_path) not in copy and '"voices"' in copy
    assert (tmp_path / "docs" / "test.md").is_file()
    with pytest.raises(DataError, match="no result"):
        (tmp_path / "other.json").write_text("{}")
        markdown.write_page(tmp_path / "other.json")


def check(path):
    """The page beside a result is of this result, and the result follows from its raw values."""
    result = markdown.read_result(path)
    readme = path.parent / "README.md"
    block = markdown.block(readme.read_text(), result.name) if readme.is_file() else None
    assert block == markdown.markdown(result)
    for name, drawing in figures.draw(result).items():
        stored = path.with_name(f"{result.name}-{name}.svg").read_text()
        # another matplotlib places things a little differently; words and numbers stay
        same_version = re.search(r"Matplotlib v[\d.]+", stored)[0] in drawing
        assert stored == drawing if same_version else texts(stored) == texts(drawing)
    for key, metric in result.metrics.items():
        means = [mean_of(result, arm, key, metric) for arm in result.arms]
        if None in means:
            continue
        read = np.exp if metric.ratio else float
        for arm, mean in zip(result.arms, means, strict=True):
            value = result.analysis.values[arm.key][key].value
            assert read(mean) == pytest.approx(value, 1e-4)
        contrasts = questions(result.factors, [arm.levels for arm in result.arms])
        effects = [effect for effect in result.analysis.effects if effect.metric == key]
        for contrast, effect in zip(contrasts, effects, strict=True):
            amount = sum(c * mean for c, mean in zip(contrast.coefficients, means, strict=True))
            assert read(amount) == pytest.approx(effect.outcome.difference, rel=1e-4, abs=1e-4)


def mean_of(result, arm, key, metric):
    """An arm's mean from the raw values, of ratios the logarithm; None where some are missing."""
    raw = [result.raw.values[key][checkpoint] for checkpoint in arm.checkpoints]
    values = np.array(raw, float).reshape(len(raw), len(raw[0]), -1)
    if np.isnan(values).any():
        return None
    weights = result.raw.words if key == "wer" else (result.raw.weights or {}).get(key)
    rows = np.log(values) if metric.ratio else values
    return float(np.average(rows.mean((0, 2)), weights=weights))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_a_published_page_agrees_with_its_json(path):
    """Skipped while no result is published."""
    check(path)
