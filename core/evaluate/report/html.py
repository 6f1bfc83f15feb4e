"""``report.html``: one file that explains a result and lets a person hear it, without a network."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from wishbone.core.contract.atomic import write_text
from wishbone.core.evaluate.experiment import budget
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.measure.clips import read_audio
from wishbone.core.evaluate.measure.transcript import normalize
from wishbone.core.evaluate.report import figures, tables, wording
from wishbone.core.evaluate.statistics.metrics import QUALITY, metric_class, value
from wishbone.core.contract.optional import need
from wishbone.core.report import charts

PLAYERS = 12
"""Prompts with players and spectrograms."""
LARGEST = 7_000_000
"""Bytes of audio and pictures before their coding as text adds a third: the file stays below
10 MB."""
NARROWEST = 2.0
"""Seconds a spectrogram shows at least."""


def write_report(result: Mapping[str, Any], items: Items, out: Path) -> Path:
    """Render the report of a result into ``out`` and return its path."""
    jinja = need("jinja2", "jinja2", "write the report")
    folder = Path(__file__).parent
    environment = jinja.Environment(
        loader=jinja.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja.StrictUndefined,
    )
    page = environment.get_template("report.html").render(context(result, items, out))
    path = out / "report.html"
    write_text(path, page)
    return path


def context(result: Mapping[str, Any], items: Items, out: Path) -> dict[str, Any]:
    """Everything the template prints."""
    names = [arm["key"] for arm in result["arms"]]
    cards = _cards(result, items, out)
    played = {card["prompt"]["key"] for card in cards}
    return {
        "result": result,
        "names": names,
        "title": " and ".join(names) if len(names) < 4 else str(result["name"]),
        "overviews": _overviews(result),
        "figures": _image(figures.cells(result)) if result.get("factors") else "",
        "warnings": wording.warnings(result),
        "shows": wording.shows(result),
        "cannot": wording.cannot(result),
        "tables": [_table(result, name) for name in names[1:]],
        "forests": [_image(figures.forest(result, name)) for name in names[1:]],
        "cards": cards,
        "others": [_other(p, result, items) for p in result["prompts"] if p["key"] not in played],
        "budget": budget.rows([result["budget"][name] for name in names]),
        "length": _image(figures.length(result)) if result.get("length") else "",
        "memory": [_memory(name, result["memory"].get(name) or {}) for name in names],
        "failures": [_failure(name, result) for name in names],
        "weights": json.dumps(result["provenance"]["weights"], indent=1),
        "configs": {
            arm["key"]: json.dumps(arm["config"], indent=1, ensure_ascii=False)
            for arm in result["arms"]
        },
        "trained": {
            name: json.dumps(result["provenance"]["trained"].get(name) or {}, indent=1)
            for name in (result["provenance"]["trained"] or names)
        },
        "colours": {name: charts.colour(place) for place, name in enumerate(names)},
    }


def _overviews(result: Mapping[str, Any]) -> list[tables.Table]:
    """What stands before the single comparisons: factors, and what each training came to."""
    shown = [tables.cells(result), tables.effects(result)] if result.get("factors") else []
    several = any(len(arm.get("checkpoints") or ()) > 1 for arm in result["arms"])
    return [*shown, tables.trainings(result)] if several else shown


def _image(drawing: str) -> str:
    """Return an SVG file as the address of an image: its ids and style cannot reach the page."""
    return charts.data_url("image/svg+xml", drawing.encode())


def _speakers(result: Mapping[str, Any]) -> dict[str, str]:
    """Arm -> the checkpoint that is heard for it: its first."""
    return {arm["key"]: (arm.get("checkpoints") or [arm["key"]])[0] for arm in result["arms"]}


def _table(result: Mapping[str, Any], arm: str) -> dict[str, Any]:
    rows = []
    for each in result["comparisons"]:
        if each["arm"] != arm:
            continue
        metric = result["metrics"][each["metric"]]
        rows.append(
            {
                "each": each,
                "metric": metric,
                "reference": wording.cell(
                    (result["reference"].get(each["metric"]) or {}).get("value"), metric
                ),
                "baseline": wording.cell(each["value_baseline"], metric),
                "value": wording.cell(each["value"], metric),
                "change": wording.change(each, metric),
                "interval": wording.interval(each, metric),
                "margin": wording.margin(metric),
                "settle": wording.settle(each, metric),
            }
        )
    return {"arm": arm, "baseline": result["arms"][0]["key"], "rows": rows}


def _memory(name: str, found: Mapping[str, Any]) -> dict[str, str]:
    def shown(key: str, minus: str = "") -> str:
        if key not in found:
            return "not measured"
        return budget.size(max(0, found[key] - (found[minus] if minus else 0)))

    return {
        "name": name,
        "libraries": shown("imported"),
        "system": shown("loaded", "imported"),
        "speaking": shown("peak", "loaded"),
        "peak": shown("peak"),
    }


def _failure(name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    found = result["failures"][name]
    count = sum(found["why"].values())
    return {
        "name": name,
        "count": count,
        "items": found["items"],
        "why": ", ".join(f"{why} ({n})" for why, n in found["why"].items()) or "none",
        "interval": f"{100 * found['low']:.1f} to {100 * found['high']:.1f} %",
        "p": result["failure_tests"].get(name),
    }


def _cards(result: Mapping[str, Any], items: Items, out: Path) -> list[dict[str, Any]]:
    """Prompts with sound, until there are enough of them or the file would grow too large."""
    cards, spent = [], 0
    for prompt, why in choose(result, items):
        card, size = _card(prompt, why, result, items, out)
        spent += size
        if cards and spent > LARGEST:
            break
        cards.append(card)
    return cards


def choose(result: Mapping[str, Any], items: Items) -> list[tuple[Mapping[str, Any], str]]:
    """Which prompts to play and why: the largest losses and gains in words, then a plain sample.

    A third each. Choosing only the best or only the first would show something else than what was
    measured.
    """
    baseline, arm = list(_speakers(result).values())[:2]
    prompts = {prompt["key"]: prompt for prompt in result["prompts"]}

    def errors(name: str, key: str) -> float:
        return value(items.get(name, key, 0), metric_class("wer").info) or 0.0

    change = {key: errors(arm, key) - errors(baseline, key) for key in prompts}
    ranked = sorted(prompts, key=lambda key: (change[key], key))
    third = PLAYERS // 3
    gains = [key for key in ranked[:third] if change[key] < 0]
    losses = [key for key in ranked[::-1][:third] if change[key] > 0]
    rest = [key for key in prompts if key not in gains and key not in losses]
    count = min(len(rest), PLAYERS - len(gains) - len(losses))
    even = [rest[int(i)] for i in np.linspace(0, len(rest) - 1, count)] if count else []
    named = [
        *((key, f"{arm} was understood worse than {baseline} here") for key in losses),
        *((key, f"{arm} was understood better than {baseline} here") for key in gains),
        *((key, "one of a plain sample") for key in even),
    ]
    return [(prompts[key], why) for key, why in sorted(named)]


def _card(
    prompt: Mapping[str, Any], why: str, result: Mapping[str, Any], items: Items, out: Path
) -> tuple[dict[str, Any], int]:
    rows = {name: items.get(key, prompt["key"], 0) for name, key in _speakers(result).items()}
    heard: dict[str, tuple[np.ndarray, int]] = {}
    for name, row in rows.items():
        path = out / str(row.get("audio", ""))
        if path.is_file():
            heard[name] = read_audio(path)
    reference = _reference_audio(prompt["key"], result)
    if reference is not None:
        rows["reference"] = items.get("reference", prompt["key"], 0)
        heard["reference"] = reference
    longest = max([NARROWEST, *(len(audio) / rate for audio, rate in heard.values())])
    takes, size = [], 0
    for name in rows:
        take, bytes_ = _take(name, rows[name], heard.get(name), longest, result["metrics"])
        takes.append(take)
        size += bytes_
    return {"prompt": prompt, "why": why, "takes": takes}, size


def _take(
    name: str,
    row: Mapping[str, Any],
    heard: tuple[np.ndarray, int] | None,
    seconds: float,
    metrics: Mapping[str, Any],
) -> tuple[dict[str, Any], int]:
    sound, picture, size = "", "", 0
    if heard is not None and len(heard[0]):
        audio, rate = heard
        coded, drawn = flac(audio, rate), charts.spectrogram(audio, rate, seconds)
        size = len(coded) + len(drawn)
        sound = charts.data_url("audio/flac", coded)
        picture = charts.data_url("image/png", drawn)
    return {
        "name": name,
        "sound": sound,
        "picture": picture,
        "words": marked(row.get("text", ""), row.get("heard") or ""),
        "numbers": _numbers(row, metrics),
        "failure": row.get("failure", ""),
        "error": row.get("error", ""),
    }, size


def _numbers(row: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    parts = []
    if row.get("words"):
        parts.append(f"{row['errors']} of {row['words']} words wrong")
    if row.get("dnsmos") is not None:
        parts.append(f"quality {row['dnsmos']:.2f}")
    if row.get("similarity") is not None:
        parts.append(f"likeness {row['similarity']:.2f}")
    for key, metric in metrics.items():
        if key not in QUALITY and metric.get("source") == "audio" and row.get(key) is not None:
            parts.append(f"{metric['title']} {wording.cell(row[key], metric)}")
    if row.get("seconds"):
        parts.append(f"{row['seconds']:.1f} s")
    return " · ".join(parts)


def _other(prompt: Mapping[str, Any], result: Mapping[str, Any], items: Items) -> dict[str, Any]:
    names = list(_speakers(result))
    rows = [items.get(key, prompt["key"], 0) for key in _speakers(result).values()]
    return {
        "prompt": prompt,
        "takes": [
            {
                "name": name,
                "words": marked(row.get("text", ""), row.get("heard") or ""),
                "numbers": row.get("failure") or _numbers(row, result["metrics"]),
                "audio": row.get("audio", ""),
            }
            for name, row in zip(names, rows, strict=True)
        ],
    }


def _reference_audio(key: str, result: Mapping[str, Any]) -> tuple[np.ndarray, int] | None:
    folder = result.get("reference_folder")
    for ending in (".flac", ".wav", ".ogg", ".opus") if folder else ():
        path = Path(folder) / f"{key}{ending}"
        if path.is_file():
            return read_audio(path)
    return None


def flac(audio: np.ndarray, rate: int) -> bytes:
    """A FLAC file in memory: what is heard in the report is what was made, sample by sample."""
    held = io.BytesIO()
    soundfile.write(held, np.clip(audio, -1, 1), rate, format="FLAC", subtype="PCM_16")
    return held.getvalue()


def marked(text: str, heard: str) -> list[tuple[str, str]]:
    """What was heard, word by word: ("same" | "wrong" | "missing", words)."""
    wanted, got = normalize(text).split(), normalize(heard).split()
    parts: list[tuple[str, str]] = []
    for kind, a, b, c, d in SequenceMatcher(None, wanted, got, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append(("same", " ".join(got[c:d])))
            continue
        if b > a:
            parts.append(("missing", " ".join(wanted[a:b])))
        if d > c:
            parts.append(("wrong", " ".join(got[c:d])))
    return parts
