"""A listening test of tones, and listeners who answer it by a rule."""

import json

import numpy as np
import soundfile

from wishbone.core.evaluate.listening.handout import Wishes, default_key, write_test
from wishbone.core.evaluate.listening.stimuli import find_stimuli

RATE = 16000


def tone(hertz, seconds=0.5, level=0.2):
    time = np.arange(int(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def recordings(folder, systems=("steady", "fancy"), items=4):
    """Folders of tones, one pitch a sentence and one level a system -> their paths."""
    for place, system in enumerate(systems):
        (folder / system).mkdir(parents=True)
        for item in range(items):
            audio = tone(300 + 100 * item, level=0.1 + 0.2 * place)
            soundfile.write(folder / system / f"s{item}.wav", audio, RATE)
    return [str(folder / system) for system in systems]


def make(folder, systems=("steady", "fancy"), items=4, **wishes):
    """Write a test -> its folder and its key."""
    stimuli = find_stimuli(recordings(folder / "wavs", systems, items))
    out = folder / "test"
    written = write_test(stimuli, Wishes(**wishes), out, default_key(out))
    return written, json.loads(written.key.read_text())


def page_of(written):
    """The test's data in the page, as the page reads it."""
    text = (written.folder / "index.html").read_text()
    return json.loads(text.partition('id="test">')[2].partition("</script>")[0])


def session(written, key, rule, number=0, code=""):
    """A listener's answers, each by ``rule(clips)`` of what the key says of the trial's clips."""
    form = page_of(written)["forms"][number]
    rows = [
        {
            "trial": trial["trial"],
            "clips": trial["clips"],
            "answer": rule([key["clips"][clip] for clip in trial["clips"]]),
            "seconds": 30.0,
            "played": [1] * (len(trial["clips"]) + ("reference" in trial)),
        }
        for trial in form
    ]
    return {
        "version": 1, "test": key["test"], "session": f"{number:x}".ljust(32, "0"), "code": code,
        "answers": rows,
    }  # fmt: skip


def prefers_fancy(clips):
    """Answer a pair: the spoilt clip is never preferred, fancy always."""
    worth = [(not clip["degraded"], clip["system"] == "fancy") for clip in clips]
    return "same" if worth[0] == worth[1] else "ab"[worth[1] > worth[0]]
