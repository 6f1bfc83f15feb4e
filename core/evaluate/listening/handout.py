"""The folder that listeners get, and the key that they do not get.

The folder is one page and its audio, under names that tell nothing; it works from a disk, from any
web server and from ``wishbone listen serve``. The key says which system each clip is, and lies
outside of the folder.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wishbone.core.audio.files import Audio
from wishbone.core.contract.atomic import new_folder, write_text
from wishbone.core.contract.errors import UsageError
from wishbone.core.evaluate.listening import loudness
from wishbone.core.evaluate.listening.design import (
    BETTER,
    DESIGNS,
    MOST_TRIALS,
    Design,
    Slot,
    catch_places,
    forms,
    trials,
)
from wishbone.core.evaluate.listening.stimuli import Stimuli, load
from wishbone.core.report.html_page import render
from wishbone.core.report.json_file import write_json

PAGE, AUDIO = "index.html", "audio"
VERSION = 1
"""Of the key and of the answers that the page writes."""
TEMPLATE = Path(__file__).with_name("listening_test.html")
CONSENT = (
    "Stored are your answers, their times, your code, whether you used headphones, and your"
    " comment; nothing else about you. You can stop at any time by closing the page."
)
X, DEGRADED, ANCHOR = "x", "degraded", "anchor"
"""Roles of clips beside a system's own."""
SECONDS_A_TRIAL = 8
"""Seconds that an answer takes beside the playing of the clips; for the estimate on the page."""


@dataclass(frozen=True)
class Wishes:
    """A test as it is asked for."""

    design: str = "ab"
    listeners: int = 24
    """Forms that are balanced against each other; a later listener gets a used one again."""
    items: int = 0
    """Sentences; 0 for all."""
    trials: int = 0
    """Trials of one listener, catch trials aside; 0 for all of them, at most ``MOST_TRIALS``."""
    catch: int = 2
    """Catch trials of one listener."""
    training: int = 2
    """Trials of the training page, which do not count."""
    ties: bool = True
    """Whether "no difference" is an answer of design ab."""
    reference: str = ""
    """System that MUSHRA gives as the reference, and hides among the others."""
    anchors: tuple[int, ...] = (3500, 7000)
    """Hertz at which MUSHRA's anchors are cut, made of the reference."""
    question: str = ""
    title: str = "Listening test"
    consent: str = CONSENT
    show_text: bool = False
    """Whether the sentence is written over its clips."""
    target: float = loudness.TARGET
    seed: int = 0


@dataclass(frozen=True)
class Written:
    """A test that lies on the disk."""

    folder: Path
    key: Path
    trials: int
    minutes: float
    """Of one listener, about."""
    matched: loudness.Matched


def default_key(folder: Path) -> Path:
    """Return where the key of a test lies when nothing else is said: beside the folder."""
    return folder.resolve().with_name(f"{folder.resolve().name}-key.json")


def write_test(stimuli: Stimuli, wishes: Wishes, out: Path, key: Path) -> Written:
    """Write the folder ``out`` and the key. Raises ``UsageError`` where they may not stand."""
    _check_places(out, key)
    design = DESIGNS[wishes.design]
    items = _chosen_items(stimuli.items, wishes)
    audio, rate = load({s: {i: stimuli.files[s][i] for i in items} for s in stimuli.systems})
    maker = _Maker(design, wishes, stimuli, items, audio, rate)
    maker.build()
    equal, matched = loudness.match(maker.audio, rate, wishes.target)
    length, minutes = maker.length, maker.minutes()
    _write_folder(out, equal, rate, maker.page(minutes))
    write_json(key, maker.key(matched))
    return Written(out, key, length, minutes, matched)


def _check_places(out: Path, key: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            "The folder of the test exists already.",
            str(out),
            "Choose another --out: listeners may be answering this one.",
        )
    if key.resolve().is_relative_to(out.resolve()):
        raise UsageError(
            "The key would lie in the folder that listeners get.",
            str(key),
            "Give --key a path outside of it.",
        )
    if key.exists():
        raise UsageError(
            "There is a key already.", str(key), "Choose another --key: answers may need this one."
        )


def _chosen_items(items: Sequence[str], wishes: Wishes) -> list[str]:
    if not 0 < wishes.items < len(items):
        return list(items)
    places = np.random.default_rng(wishes.seed).permutation(len(items))[: wishes.items]
    return [items[place] for place in sorted(places.tolist())]


class _Maker:
    """Clips, trials and forms of one test, under names drawn by chance."""

    def __init__(
        self,
        design: Design,
        wishes: Wishes,
        stimuli: Stimuli,
        items: Sequence[str],
        audio: Mapping[tuple[str, str], np.ndarray],
        rate: int,
    ) -> None:
        self.design, self.wishes, self.items, self.rate = design, wishes, items, rate
        self.texts = stimuli.texts
        self.test = secrets.token_hex(8)
        self.audio: dict[str, np.ndarray] = {}
        self.clips: dict[str, dict[str, Any]] = {}
        self.trials: dict[str, dict[str, Any]] = {}
        self._names: dict[tuple[str, str, str], str] = {}
        self._trial_names: dict[tuple[str, str, tuple[str, ...]], str] = {}
        self._recordings = dict(audio)
        self.reference = wishes.reference if design.key == "mushra" else ""
        if self.reference and self.reference not in stimuli.systems:
            raise UsageError(
                f"There is no system '{self.reference}' to be the reference.",
                "wishbone listen make",
                f"Use one of: {', '.join(stimuli.systems)}.",
            )
        self.anchors = [f"anchor-{hertz}" for hertz in wishes.anchors] if self.reference else []
        for name, hertz in zip(self.anchors, wishes.anchors, strict=False):
            for item in items:
                original = self._recordings[self.reference, item]
                self._recordings[name, item] = loudness.low_pass(original, rate, hertz)
        self.systems = [*stimuli.systems, *self.anchors]
        self.forms: list[list[dict[str, Any]]] = []
        self.training: list[dict[str, Any]] = []
        self.length = 0

    def build(self) -> None:
        """Make every form, its catch trials and the training."""
        wishes, slots = self.wishes, trials(self.design, self.systems, self.items)
        self.length = min(wishes.trials or MOST_TRIALS, len(slots))
        random = np.random.default_rng(wishes.seed + 1)
        plans = forms(self.design, slots, wishes.listeners, self.length, wishes.seed)
        for number, plan in enumerate(plans):
            form = [self._trial("test", slot) for slot in plan]
            places = catch_places(self.length, wishes.catch, random)
            for turn, place in reversed(list(enumerate(places))):
                form.insert(place, self._catch("catch", turn, number + turn))
            self.forms.append(form)
        for turn in range(wishes.training):
            ordinary = self._trial("training", slots[-1 - turn % len(slots)])
            self.training.append(ordinary if turn % 2 else self._catch("training", turn, turn))

    def page(self, minutes: float) -> str:
        """Return the page, which names no system, no sentence's key and no right answer."""
        wishes, design = self.wishes, self.design
        data = {
            "version": VERSION,
            "test": self.test,
            "design": design.key,
            "question": wishes.question or design.question,
            "steps": design.steps,
            "ties": wishes.ties,
            "reference": bool(self.reference),
            "training": self.training,
            "forms": self.forms,
            "sound": f"{AUDIO}/{self.training[-1]['clips'][0]}.wav" if self.training else "",
        }
        # "<" could close the script's element
        text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
        return render(
            TEMPLATE,
            {
                "data": text,
                "title": wishes.title,
                "consent": wishes.consent,
                "design": design.key,
                "trials": len(self.forms[0]),
                "training": len(self.training),
                "minutes": round(minutes),
                "steps": design.steps,
                "worst_and_best": BETTER,
            },
        )

    def key(self, matched: loudness.Matched) -> dict[str, Any]:
        """Return all that the page does not tell."""
        return {
            "version": VERSION,
            "test": self.test,
            "design": self.design.key,
            "systems": self.systems,
            "reference": self.reference,
            "anchors": self.anchors,
            "ties": self.wishes.ties,
            "loudness": {"target": matched.target, "softer": matched.softer},
            "wishes": asdict(self.wishes),
            "texts": {item: self.texts.get(item, "") for item in self.items},
            "trials": self.trials,
            "clips": self.clips,
        }

    def minutes(self) -> float:
        """Return about how long one listener needs."""
        seconds = sum(
            sum(self.clips[name]["seconds"] for name in trial["clips"]) + SECONDS_A_TRIAL
            for trial in [*self.forms[0], *self.training]
        )
        return max(1.0, seconds / 60)

    def _trial(self, kind: str, slot: Slot) -> dict[str, Any]:
        x = slot.systems[2:] if self.design.key == "abx" else ()
        plain = slot.systems[: len(slot.systems) - len(x)]
        clips = [self._clip(system, slot.item) for system in plain]
        clips += [self._clip(system, slot.item, X) for system in x]
        return self._shown(kind, slot.item, plain, clips)

    def _catch(self, kind: str, turn: int, side: int) -> dict[str, Any]:
        """Make a trial with one bad clip; ``side`` turns which place it has."""
        item = self.items[(turn + 3) % len(self.items)]
        system = self.reference or self.systems[turn % (len(self.systems) - len(self.anchors))]
        good, bad = self._clip(system, item, kind), self._clip(system, item, DEGRADED)
        if self.design.key == "mos":
            clips = [bad]
        elif self.design.key == "mushra":
            clips = [self._clip(name, item) for name in self.systems]
            clips.insert(side % (len(clips) + 1), bad)
        else:
            clips = [bad, good] if side % 2 else [good, bad]
        if self.design.key == "abx":
            clips.append(self._clip(system, item, DEGRADED + X if side // 2 % 2 else kind + X))
        return self._shown(kind, item, (system,), clips)

    def _shown(
        self, kind: str, item: str, systems: Sequence[str], clips: Sequence[str]
    ) -> dict[str, Any]:
        """Return a trial for the page, and note it in the key."""
        place = (kind, item, tuple(sorted(systems)))
        name = self._trial_names.setdefault(place, secrets.token_hex(6))
        self.trials[name] = {"kind": kind, "item": item}
        trial: dict[str, Any] = {"trial": name, "clips": list(clips)}
        if self.reference:
            trial["reference"] = self._clip(self.reference, item, "reference")
        if self.wishes.show_text and self.texts.get(item):
            trial["text"] = self.texts[item]
        return trial

    def _clip(self, system: str, item: str, role: str = "") -> str:
        """Return the name of a clip, made when it is asked for first."""
        place = (system, item, role)
        if place not in self._names:
            name = self._names[place] = secrets.token_hex(8)
            audio = self._recordings[system, item]
            bad = role.startswith(DEGRADED)
            self.audio[name] = (
                loudness.degrade(audio, self.rate, self.wishes.seed) if bad else audio
            )
            self.clips[name] = {
                "system": system,
                "item": item,
                "degraded": bad,
                "seconds": round(len(audio) / self.rate, 3),
            }
        return self._names[place]


def _write_folder(out: Path, audio: Mapping[str, np.ndarray], rate: int, page: str) -> None:
    with new_folder(out) as folder:
        (folder / AUDIO).mkdir()
        # by name, so that the times of the files tell nothing either
        for name in sorted(audio):
            samples = torch.from_numpy(np.ascontiguousarray(audio[name], np.float32))  # [S]
            Audio(samples, rate).save(folder / AUDIO / f"{name}.wav")
        write_text(folder / PAGE, page)
