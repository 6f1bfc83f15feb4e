"""Several voices: every one says every prompt, and intervals are for new voices, too."""

from dataclasses import replace

import numpy as np
import pytest
from ab_results import result
from test_ab_files import write
from test_ab_parts import plan
from tiny_system import tiny_system

from wishbone.core.contract.errors import ConfigError, UnknownName
from wishbone.core.evaluate.again import recomputed
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import read_plan, seed_of
from wishbone.core.evaluate.prompts.prompt_lists import in_voices, voice_of
from wishbone.core.evaluate.prompts.slices import slices
from wishbone.core.evaluate.report import tables, wording
from wishbone.core.evaluate.sources.source import SystemSource
from wishbone.core.evaluate.statistics import compare
from wishbone.core.evaluate.statistics.contrast import contrast
from wishbone.core.evaluate.statistics.study import aligned

TRIALS = 200
TWO = "arms: {a: quickstart-rwkv7, b: quickstart-rwkv7}\n"


def world(random, voices, prompts=24, by_voice=1.0, noise=1.0):
    """Two arms [1, V * P, 1] whose difference varies with the voice, the prompt and by chance."""
    of_voice = random.normal(0, by_voice, (voices, 1))
    of_prompt = random.normal(0, 0.5, (1, prompts))
    shared = random.normal(0, 3, (voices, prompts))
    other = shared + of_voice + of_prompt + random.normal(0, noise, (voices, prompts))
    return [side.reshape(1, -1, 1) for side in (shared, other)], np.ones(voices * prompts)


def share(voices, judged, **kind):
    """Share of equal worlds in which ``judged`` is true of the contrast."""
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(TRIALS):
        arms, weights = world(random, voices, **kind)
        hits += judged(contrast(arms, (-1, 1), weights, voices=voices, draws=200))
    return hits / TRIALS


@pytest.mark.parametrize("voices", [3, 8])
def test_intervals_and_p_are_for_new_voices(voices):
    assert share(voices, lambda one: one.p <= 0.05) <= 0.08
    assert share(voices, lambda one: one.interval.low <= 0 <= one.interval.high) >= 0.92


def test_taking_the_voices_for_given_would_cry_wolf():
    """Negative control: p for these very voices, which says nothing of others."""
    assert share(3, lambda one: one.p_checkpoints <= 0.05) > 0.2


def test_voices_that_do_not_matter_cost_little():
    wide = share(8, lambda one: one.interval.high - one.interval.low, by_voice=0.0)
    # two standard errors of what prompts and chance alone make
    alone = 2 * 1.96 * np.sqrt(0.5**2 / 24 + 1 / (8 * 24))
    assert alone < wide < 1.4 * alone


def test_trainings_and_voices_both_count():
    random = np.random.default_rng(1)
    shared = random.normal(0, 1, (1, 4 * 12, 1))
    seeds = random.normal(0, 0.6, (2, 3, 1, 1))
    arms = [shared + seed + random.normal(0, 0.1, (3, 48, 1)) for seed in seeds]
    over = [np.repeat(random.normal(0, 0.6, 4), 12)[None, :, None], 0]
    both = contrast([arms[0] + over[0], arms[1]], (-1, 1), np.ones(48), voices=4)
    trainings = contrast(arms, (-1, 1), np.ones(48), voices=4)
    assert both.trainings == pytest.approx(trainings.trainings)
    assert 0 < both.seed_share < trainings.seed_share <= 1


def test_a_prompt_that_one_voice_lacks_is_left_out_of_all():
    metric = plan().metrics["dnsmos"]
    values = np.arange(6.0).reshape(1, 6, 1)
    values[0, 4] = np.nan
    rows = aligned([values, values.copy()], np.ones(6), metric, voices=2)
    assert rows.arms[0].ravel().tolist() == [0, 2, 3, 5]
    assert (rows.left_out, rows.voices) == (2, 2)


def voiced(prompts=6):
    given = plan(prompts=prompts)
    names = ["ann", "joe", "kim"]
    return replace(given, prompts=in_voices(given.prompts, names), voices=names)


def judged(tmp_path, given, by_voice):
    """Items in which each voice changes what the second arm's quality is."""
    items = Items(tmp_path / "items.jsonl")
    random = np.random.default_rng(0)
    for place, prompt in enumerate(given.prompts):
        for arm in ("old", "new"):
            more = by_voice[prompt.voice] if arm == "new" else 0.0
            failed = arm == "new" and prompt.voice != "ann" and place % 6 == 0
            row = {
                "words": 10, "errors": 1, "dnsmos": round(3 + more + random.normal(0, 0.02), 3),
                "failure": "empty" if failed else "", "rtf": 0.2, "text": prompt.text,
                "seconds": 1.0, "token_rate": 90.0,
            }  # fmt: skip
            items.add(arm, prompt.key, 0, row)
    return items


def test_every_prompt_in_every_voice_is_an_item_of_its_own():
    given = voiced()
    assert [p.key for p in given.prompts][5:8] == ["005-ann", "000-joe", "001-joe"]
    assert voice_of(None, given.prompts[6], "other") == "joe"
    assert seed_of(1, given.prompts[0], 0) != seed_of(1, given.prompts[6], 0)


def test_a_result_of_voices_is_judged_across_them_and_shown_by_each(tmp_path):
    given = voiced()
    items = judged(tmp_path, given, {"ann": 0.9, "joe": 0.0, "kim": 0.3})
    row = compare.compare(items, given, given.metrics["dnsmos"], "new", "old")
    assert row.outcome.verdict == "inconclusive" and row.outcome.freedom < 6
    # as if the voices were given, the same numbers are sure
    flat = replace(given, voices=[])
    assert compare.compare(items, flat, given.metrics["rtf"], "new", "old").outcome.units == 16
    results = {one.kind: one for one in slices(items, given) if one.metric == "dnsmos"}
    assert set(results) == {"voice ann", "voice joe", "voice kim"}
    assert results["voice ann"].difference == pytest.approx(0.9, abs=0.05)
    # a sentence that two voices lose failed once
    failures = compare.failures(items, given, "new")
    assert (failures.count, failures.items) == (2, 18)
    assert failures.high > compare.failures(items, flat, "new").high
    whole = replace(result(given, items), slices=slices(items, given))
    assert "kind and voice" in tables.slices(whole).title
    assert any("in the voices ann, joe and kim" in line for line in wording.cannot(whole))
    # no curve of sizes is drawn over voices, so each sentence says what could have been found
    shown = next(line for line in wording.shows(whole) if line.startswith("Predicted quality"))
    assert "MOS would be found in four cases of five" in shown
    again = recomputed(whole)
    assert again.analysis.comparisons == whole.analysis.comparisons
    assert again.analysis.failures == whole.analysis.failures


def test_a_voice_that_is_none_ends_the_run_before_its_first_item():
    source = SystemSource(tiny_system())
    source.prepare(None)
    with pytest.raises(UnknownName, match="nobody"):
        source.prepare("nobody")


def test_voices_are_named_in_the_file_or_the_command(tmp_path):
    path = write(tmp_path, TWO + "voices: [joe, kathleen]\nlimit: 3\nreference: reference-en\n")
    given = read_plan(path)
    assert len(given.prompts) == 6 and given.voices == ["joe", "kathleen"]
    # a reference is one voice
    assert given.reference is None and "similarity" not in given.used
    assert read_plan(path, voices=["joe", "ann", "kim"], prompts=2).prompts[2].voice == "ann"
    for wrong in (["joe"], ["joe", "joe"], ["joe", "x/joe.safetensors"]):
        with pytest.raises(ConfigError, match="two or more different"):
            read_plan(path, voices=wrong)
    path = write(tmp_path, "arms: {a: quickstart-rwkv7, b: {audio: x}}\n")
    with pytest.raises(ConfigError, match="voices that they have"):
        read_plan(path, voices=["joe", "ann"])
