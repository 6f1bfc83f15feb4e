"""Records of a result and of items: what files hold comes back as it was written."""

import json
from pathlib import Path

import pytest

from wishbone.core.evaluate.experiment.items import Item, Items
from wishbone.core.evaluate.result import Comparison, Effect, Outcome, from_json, to_json

PUBLISHED = sorted((Path(__file__).parents[2] / "configs" / "ab").glob("*.json"))


def same_order(one, other):
    """True where both have the same keys in the same order, at every depth."""
    return json.dumps(one) == json.dumps(other)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_results_are_read_and_written_without_a_change(path):
    values = json.loads(path.read_text(encoding="utf-8"))
    result = from_json(values)
    assert to_json(result) == values
    assert same_order(to_json(result), values)
    comparison = result.analysis.comparisons[0]
    assert isinstance(comparison, Comparison) and isinstance(comparison.outcome, Outcome)
    assert comparison.outcome.verdict == values["comparisons"][0]["verdict"]
    effect = result.analysis.effects[0]
    assert isinstance(effect, Effect) and isinstance(next(iter(effect.changed.values())), tuple)
    assert result.raw.words == values["raw"]["words"]
    assert "words" not in result.raw.values
    # some are from before engines could be chosen, and nothing is added to them
    before = path.stem == "layout-by-backbone"
    assert (result.costs.engines is None) == (result.engine_requested is None) == before
    assert all((metric.source is None) == before for metric in result.metrics.values())


def test_a_result_without_a_key_says_which():
    values = json.loads(PUBLISHED[0].read_text(encoding="utf-8"))
    del values["comparisons"][0]["p_checkpoints"]
    with pytest.raises(ValueError, match=r"Outcome has no 'p_checkpoints'"):
        from_json(values)
    with pytest.raises(ValueError, match="no table of keys"):
        from_json([])


def test_there_are_published_results():
    assert len(PUBLISHED) >= 2


def test_items_are_merged_from_their_lines(tmp_path):
    path = tmp_path / "items.jsonl"
    items = Items(path)
    assert items.get("a", "000", 0) == Item("a", "000", 0)
    spoken = {"text": "One.", "audio": "audio/a/000-0.flac", "heard": None, "judged": {}}
    items.add("a", "000", 0, {**spoken, "seed": 7, "seconds": 1.5, "failure": "", "error": ""})
    items.add("a", "000", 0, {"heard": "one", "errors": 0, "judged": {"wer": "wer|x"}})
    for reader in (items, Items(path)):
        item = reader.get("a", "000", 0)
        assert (item.text, item.seed, item.seconds) == ("One.", 7, 1.5)
        assert (item.transcript, item.judged, item.row["errors"]) == ("one", {"wer": "wer|x"}, 0)
        # rows from before engines could be chosen name none
        assert item.engine == "eager"
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2


def test_a_line_that_was_cut_off_is_passed_over(tmp_path):
    path = tmp_path / "items.jsonl"
    Items(path).add("a", "000", 0, {"seed": 1})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"arm": "a", "prompt": "001", "rep')
    assert [item.prompt for item in Items(path).of("a")] == ["000"]
