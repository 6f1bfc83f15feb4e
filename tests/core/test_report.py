"""The report: one file, nothing fetched, everything escaped, pictures that are pictures."""

import io
import re
import shutil
from dataclasses import replace

import ab_results
import numpy as np
import pytest
import soundfile
from test_ab_parts import plan

from wishbone.core.evaluate.experiment import generate
from wishbone.core.evaluate.experiment.items import Item, Items
from wishbone.core.evaluate.report import html, players, tables, terminal, wording
from wishbone.core.evaluate.result import Difference, Prompt
from wishbone.core.report import charts

AB = "install the extra: pip install wishbone-tts[ab]"


def tone(seconds, rate=24_000):
    return (0.3 * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate)) / rate)).astype("float32")


@pytest.fixture
def finished(tmp_path):
    """A result with three prompts, one failure and a text that tries to be a script."""
    given = plan(prompts=3)
    items = Items(tmp_path / "items.jsonl")
    for arm in ("old", "new"):
        for i, prompt in enumerate(given.prompts):
            failed = arm == "new" and i == 2
            audio = f"audio/{arm}/{prompt.key}-0.flac"
            generate.write(tmp_path / audio, tone(0 if failed else 0.5 + i), 24_000)
            told = {
                "text": f"<script>alert({i})</script> words", "audio": audio,
                "heard": "" if failed else "words & more", "errors": 1, "words": 2,
                "dnsmos": 3.1, "rtf": 0.2, "failure": "empty" if failed else "",
                "seconds": 1.0, "token_rate": 90.0,
            }  # fmt: skip
            items.add(arm, prompt.key, 0, told)
    scripts = [
        Prompt(p.key, f"<script>alert({i})</script> words") for i, p in enumerate(given.prompts)
    ]
    result = replace(
        ab_results.result(given, items),
        differences=[Difference("backbone.name", {"old": "a", "new": None}, True)],
        prompts=scripts, signatures={"wer": "wer|test"},
    )  # fmt: skip
    return result, items, tmp_path


def test_the_report_is_one_file_without_a_network(finished):
    pytest.importorskip("jinja2", reason=AB)
    pytest.importorskip("matplotlib", reason=AB)
    pytest.importorskip("whisper_normalizer", reason=AB)
    page = html.write_report(*finished).read_text(encoding="utf-8")
    # a link to a place in the page itself fetches nothing
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", page)
    places = re.findall(r'href="#([^"]*)"', page)
    assert len(places) >= 7 and all(f' id="{place}"' in page for place in places)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(0)" in page
    assert page.count("<audio") == 5
    assert "failed: empty" in page
    # three charts, and a spectrogram for each player
    assert page.count('src="data:image/svg+xml;base64,') == 3
    assert page.count('src="data:image/png;base64,') == 5
    assert all(f"--key: {charts.colour(place)}" in page for place in (0, 1))


def test_the_audio_in_it_is_what_was_made(finished):
    import base64

    pytest.importorskip("jinja2", reason=AB)
    pytest.importorskip("matplotlib", reason=AB)
    pytest.importorskip("whisper_normalizer", reason=AB)
    page = html.write_report(*finished).read_text(encoding="utf-8")
    first = re.search(r"data:audio/flac;base64,([^\"]+)", page).group(1)
    audio, rate = soundfile.read(io.BytesIO(base64.b64decode(first)), dtype="float32")
    assert rate == 24_000
    assert np.allclose(audio, tone(0.5), atol=1e-4)


def test_players_show_losses_gains_and_a_plain_sample(tmp_path):
    given = plan(prompts=40)
    items = Items(tmp_path / "items.jsonl")
    for i, prompt in enumerate(given.prompts):
        change = {3: 9, 7: -2, 8: -3}.get(i, 0)
        for arm, errors in (("old", 4), ("new", 4 + change)):
            items.add(arm, prompt.key, 0, {"words": 20, "errors": errors, "failure": ""})
    checkpoints = {"old": "old", "new": "new"}
    reasons = players.choose(checkpoints, given.prompts, items)
    chosen = {prompt.key: why for prompt, why in reasons}
    assert len(chosen) == players.PLAYERS
    assert "worse" in chosen["003"]
    assert "better" in chosen["007"] and "better" in chosen["008"]
    assert sum("plain" in why for why in chosen.values()) == players.PLAYERS - 3


def test_words_that_were_wrong_or_missed_are_marked():
    pytest.importorskip("whisper_normalizer", reason=AB)
    assert players.marked("One small step.", "one tall") == [
        ("same", "one"), ("missing", "small step"), ("wrong", "tall"),
    ]  # fmt: skip


def test_quick_and_confounded_results_say_so_first(finished):
    result, _, _ = finished
    assert wording.warnings(result) == []
    assert wording.shows(result)
    loud = replace(
        result, quick=True, confounded=["decoder.width"],
        costs=replace(result.costs, unmatched="B is larger."),
    )  # fmt: skip
    said = " ".join(wording.warnings(loud))
    assert "SMOKE TEST" in said and "decoder.width" in said and "B is larger." in said
    assert wording.shows(loud) == []
    assert any("two trained models" in line for line in wording.cannot(loud))


def test_the_terminal_shows_every_metric_and_then_the_sentences(finished, capsys):
    pytest.importorskip("rich", reason=AB)
    result, _, _ = finished
    terminal.show(result)
    printed = capsys.readouterr().out
    assert "new compared with old" in printed and "Budget" in printed
    compared = [result.metrics[row.metric] for row in result.analysis.comparisons]
    assert compared
    assert all(f"{metric.title} ({metric.unit})" in printed for metric in compared)
    assert printed.rstrip().endswith(wording.closing(result)[-1])


def test_more_wrong_words_than_the_sentence_has_are_said_so():
    def line(errors, words):
        row = {"arm": "a", "prompt": "p", "repeat": 0, "errors": errors, "words": words}
        return players.numbers(Item.from_row(row), {})

    assert line(2, 7) == "2 of 7 words wrong"
    assert line(16, 7) == "16 errors in a sentence of 7 words"


def with_more_arms(result, names):
    """The result with copies of its last arm under other names."""
    last = result.arms[-1].key

    def more(table):
        return {**table, **dict.fromkeys(names, table[last])} if last in table else table

    analysis, costs = result.analysis, result.costs
    copies = [replace(row, arm=name) for name in names for row in analysis.comparisons]
    return replace(
        result,
        arms=[*result.arms, *(replace(result.arms[-1], key=name) for name in names)],
        costs=replace(
            costs, length=more(costs.length), memory=more(costs.memory), budget=more(costs.budget)
        ),
        analysis=replace(
            analysis, comparisons=[*analysis.comparisons, *copies], values=more(analysis.values),
            checkpoints=more(analysis.checkpoints), failures=more(analysis.failures),
            failure_tests=more(analysis.failure_tests),
        ),
        differences=[replace(row, values=more(row.values)) for row in result.differences],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("names", "title"),
    [([], "old and new"), (["wide"], "old, new and wide"),
     (["a", "b", "c"], "old and 4 other arms")],
)  # fmt: skip
def test_several_arms_stand_side_by_side_with_the_baseline_named(finished, names, title):
    for package in ("jinja2", "matplotlib", "whisper_normalizer"):
        pytest.importorskip(package, reason=AB)
    result, items, out = finished
    page = html.write_report(with_more_arms(result, names), items, out).read_text(encoding="utf-8")
    assert f"<h1>{title}, compared</h1>" in page
    assert ("old (baseline)" in page) == (len(names) > 0)
    if names:
        table = tables.every_arm(with_more_arms(result, names))
        assert list(table.head) == ["", "old (baseline)", "new", *names]
        verdicts = {row.outcome.verdict for row in result.analysis.comparisons}
        assert {cell.split(", ")[1] for row in table.rows for cell in row[2:]} == verdicts


def test_arrows_switch_arms_at_one_position_and_names_can_be_hidden(finished):
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright")
    for package in ("jinja2", "matplotlib", "whisper_normalizer"):
        pytest.importorskip(package, reason=AB)
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("a Chromium browser")
    page = html.write_report(*finished)
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = opened.new_page()
        tab.goto(f"file://{page}")
        card = tab.locator(".card").nth(1)
        first, second = card.locator("audio").nth(0), card.locator("audio").nth(1)
        first.evaluate("sound => { sound.currentTime = 0.6; return sound.play(); }")
        tab.keyboard.press("ArrowRight")
        tab.wait_for_function("sound => !sound.paused", arg=second.element_handle())
        assert first.evaluate("sound => sound.paused")
        assert second.evaluate("sound => sound.currentTime") >= 0.59
        tab.keyboard.press(" ")
        assert second.evaluate("sound => sound.paused")
        assert card.locator(".key").first.is_visible()
        tab.click("#blind")
        assert not card.locator(".key").first.is_visible()
        assert sorted(card.locator(".letter").all_inner_texts()) == ["A", "B"]
        tab.click("#blind")
        assert card.locator(".key").first.is_visible()
        opened.close()
