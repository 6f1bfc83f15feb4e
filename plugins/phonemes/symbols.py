"""The alphabet: every phoneme of gruut's American English with its stress, and five separators.

The order fixes the ids of every trained model, so symbols may be appended and never moved.
"""

from __future__ import annotations

VOWELS = (
    "ɪ", "i", "ʊ", "u", "ɛ", "ə", "ʌ", "ɔ", "ɑ", "æ", "ɚ", "eɪ", "aɪ", "ɔɪ", "oʊ", "aʊ",
)  # fmt: skip
CONSONANTS = (
    "p", "b", "t", "d", "k", "ɡ", "t͡ʃ", "d͡ʒ", "f", "v", "θ", "ð",
    "s", "z", "ʃ", "ʒ", "h", "m", "n", "ŋ", "l", "ɹ", "j", "w",
)  # fmt: skip
STRESSES = ("", "ˈ", "ˌ")
SEPARATORS = (" ", ",", ".", "?", "!")
PAD = "<pad>"
END_OF_PROMPT = "<|endofprompt|>"

SYMBOLS = (
    PAD,
    *(stress + vowel for vowel in VOWELS for stress in STRESSES),
    *CONSONANTS,
    *SEPARATORS,
    END_OF_PROMPT,
)

UNSTRESSED = frozenset(
    "is in at as and an of for was were be been are am his her him he she it its they them their "
    "we us our you your my me i or but on by with from that than this have has had will would can "
    "could shall should do does did if so no not into upon who which what when where while "
    "there".split()
)
"""Function words. The lexicon stresses them all; in a sentence they carry no stress."""

BREAKS = {
    ",": ",", ";": ",", ":": ",", "-": ",", "–": ",", "—": ",",
    ".": ".", "…": ".", "?": "?", "!": "!",
}  # fmt: skip
"""The first character of a break mark -> the separator that stands for it."""
