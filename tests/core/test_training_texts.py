"""Which prompts of an A/B its arms were trained on, by the files that their weights name."""

import json
from dataclasses import replace
from pathlib import Path

import ab_results
import pytest
from test_ab_parts import plan
from tiny_corpus import ABOUT, rows

from wishbone.core.config.compose import bundled
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.prompts.training_texts import find_texts, seen_prompts
from wishbone.core.evaluate.report import claims
from wishbone.core.evaluate.result import Prompt, from_json, to_json
from wishbone.core.evaluate.result_parts import SeenPrompts
from wishbone.core.weights.provenance import hash_files

pytest.importorskip("pyarrow", reason="install the extra: pip install wishbone-tts[ab]")
from wishbone.core.data.tokens import write_tokens  # noqa: E402

PROMPTS = [
    Prompt("000", "The kettle sang before anybody had come down."),
    Prompt("001", "We walked along the river until the light was gone behind the hills."),
    Prompt("002", "Come in."),
    Prompt("003", "Nobody has ever written this one down."),
]


@pytest.fixture
def corpus(tmp_path):
    """A file of token data with three texts, and its hash."""
    texts = [
        "Early, the kettle sang before anybody had come down!",
        "They walked along the river until the light was gone.",
        "Come in, he said.",
    ]
    path = tmp_path / "train.parquet"
    made = [{**row, "text": text} for row, text in zip(rows(3), texts, strict=True)]
    write_tokens(path, made, ABOUT)
    return path, hash_files([path])


def record(digest, path, **notes):
    return {"data": digest, "notes": {"recipe": {"data": str(path)}, **notes}}


def test_prompts_among_the_texts_are_named(corpus):
    path, digest = corpus
    (part,) = seen_prompts(PROMPTS, [("old", record(digest, path)), ("new", record(digest, path))])
    assert part.arms == ["old", "new"] and part.texts == 3 and part.data == digest
    assert (part.seen, part.partly, part.short) == (["000"], ["001"], ["002"])


def test_files_of_other_contents_are_not_the_training(corpus):
    path, digest = corpus
    write_tokens(path, rows(3), ABOUT)
    (part,) = seen_prompts(PROMPTS, [("old", record(digest, path))])
    assert part.texts is None and part.seen == []


def test_every_training_counts_and_those_that_are_not_known_are_told(corpus, tmp_path):
    path, digest = corpus
    first = {"data": digest, "recipe": {"data": [str(path)]}}
    later = record("0" * 64, tmp_path / "gone.parquet", before=[first, first])
    parts = seen_prompts(PROMPTS, [("old", later), ("new", {}), ("new", {})])
    assert [(part.arms, part.texts, part.seen) for part in parts] == [
        (["old"], None, []),
        (["old"], 3, ["000"]),
        (["new"], None, []),
    ]


def test_damaged_data_is_as_good_as_none(corpus):
    path, _ = corpus
    path.write_bytes(path.read_bytes()[:100])
    assert find_texts(hash_files([path]), [str(path)]) is None


def test_the_bundled_arms_learned_from_bundled_texts_without_these_prompts():
    folder = bundled() / "pretrained" / "quickstart-rwkv7"
    made = json.loads(Path(folder, "provenance.json").read_text())
    # the recipe names a folder of the machine that trained; the contents are bundled
    texts = find_texts(made["data"], made["notes"]["recipe"]["data"])
    assert len(texts) == made["notes"]["utterances"]
    prompts = [Prompt("000", texts[7]), Prompt("001", PROMPTS[3].text)]
    (part,) = seen_prompts(prompts, [("rwkv7", {**made, "notes": made["notes"] | {"before": []}})])
    assert part.seen == ["000"] and part.partly == []


def result_with(tmp_path, *parts):
    given = plan(prompts=4)
    items = Items(tmp_path / "items.jsonl")
    for arm in ("old", "new"):
        for prompt in given.prompts:
            items.add(arm, prompt.key, 0, {"errors": 0, "words": 5, "failure": ""})
    return replace(ab_results.result(given, items), seen_prompts=list(parts))


def part(**changes):
    whole = {
        "arms": ["old", "new"],
        "data": "ab",
        "texts": 9,
        "seen": [],
        "partly": [],
        "short": [],
    }
    return SeenPrompts(**{**whole, **changes})


def test_the_report_warns_of_prompts_that_were_learned(tmp_path):
    result = result_with(tmp_path, part(seen=["000", "001"], partly=["002"]), part(short=["003"]))
    (line,) = [line for line in claims.warnings(result) if line.startswith("SEEN IN TRAINING")]
    assert "old and new" in line and "2 whole and 1 by eight words" in line and "000" in line
    assert from_json(to_json(result)).seen_prompts == result.seen_prompts


def test_the_report_says_what_was_compared_and_what_is_not_known(tmp_path):
    gone = part(texts=None)
    result = result_with(
        tmp_path, part(short=["003"]), gone, gone, part(arms=["x"], data="", texts=None)
    )
    assert not [line for line in claims.warnings(result) if "SEEN" in line]
    told = claims.rules(result)[:3]
    assert told[0].startswith(
        "None of the prompts is among the 9 texts that old and new learned from"
    )
    assert "1 of fewer than four words" in told[0]
    assert told[1].startswith("Texts of 2 trainings of old and new are not at hand")
    assert told[2].startswith("What x learned from is not on record")
    assert claims.rules(replace(result, seen_prompts=None))[:1] != told[:1]
