"""Marks of RWKVTTS for the speaker and the manner of speaking: ``SPCT_0`` and five after it.

Names and limits are those of utils/properties_util.py of RWKVTTS. Two things are mended: a speed of
exactly 4.0 falls into none of its classes and becomes "very fast", here it is slow; and the speaker
of unknown gender, who has a mark in a table that a second one of the same name hides, has none.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

SPEEDS = ("very_slow", "slow", "medium", "fast", "very_fast")
"""``SPCT_1`` and on."""
SPEED_LIMITS = (3.5, 4.0, 4.5, 5.0)
"""Upper limits of the classes, included; in syllables or words a second."""
PITCHES = ("low_pitch", "medium_pitch", "high_pitch", "very_high_pitch")
"""``SPCT_6`` and on."""
AGES = ("child", "teenager", "youth-adult", "middle-aged", "elderly")
"""``SPCT_13`` and on."""
EMOTIONS = (
    "UNKNOWN", "NEUTRAL", "ANGRY", "HAPPY", "SAD", "FEARFUL", "DISGUSTED", "SURPRISED", "SARCASTIC",
    "EXCITED", "SLEEPY", "CONFUSED", "EMPHASIS", "LAUGHING", "SINGING", "WORRIED", "WHISPER",
    "ANXIOUS", "NO-AGREEMENT", "APOLOGETIC", "CONCERNED", "ENUNCIATED", "ASSERTIVE", "ENCOURAGING",
    "CONTEMPT",
)  # fmt: skip
"""``SPCT_21`` and on."""
GENDERS = ("female", "male")
"""``SPCT_46`` and on."""
FIRST = {"age": (13, AGES), "gender": (46, GENDERS), "emotion": (21, EMOTIONS),
         "pitch": (6, PITCHES), "speed": (1, SPEEDS)}  # fmt: skip
"""Property -> the number of its first mark and its classes, in the order of the prompt."""

PITCH_LIMITS: Mapping[tuple[str, str], Sequence[float]] = {
    ("female", "child"): (250, 290),
    ("female", "teenager"): (208, 238, 270),
    ("female", "youth-adult"): (191, 211, 232),
    ("female", "middle-aged"): (176, 195, 215),
    ("female", "elderly"): (170, 190, 213),
    ("male", "child"): (114, 130, 151),
    ("male", "teenager"): (121, 143, 166),
    ("male", "youth-adult"): (115, 131, 153),
    ("male", "middle-aged"): (110, 125, 147),
    ("male", "elderly"): (114, 128, 142),
}
"""Hz at which the next class begins."""


def marks(row: Mapping[str, Any]) -> str:
    """Write ``SPCT_0...`` from the columns age, gender, emotion, pitch (Hz or a class) and speed.

    Empty where a property is missing or is of no class.
    """
    values = {name: row.get(name) for name in FIRST}
    values |= {name: str(values[name]).strip().lower() for name in ("age", "gender")}
    values["emotion"] = str(values["emotion"]).strip().upper()
    limits = PITCH_LIMITS.get((values["gender"], values["age"]))
    if limits and _number(values["pitch"]):
        values["pitch"] = PITCHES[bisect_right(limits, values["pitch"])]
    if _number(values["speed"]):
        values["speed"] = SPEEDS[bisect_left(SPEED_LIMITS, values["speed"])]
    numbers = [0]
    for name, (first, classes) in FIRST.items():
        if values[name] not in classes:
            return ""
        numbers.append(first + classes.index(values[name]))
    return "".join(f"SPCT_{number}" for number in numbers)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
