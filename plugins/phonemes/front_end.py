"""gruut's American English without what depends on the machine or takes long."""

from __future__ import annotations

import operator
import re
import sqlite3
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

LANGUAGE = "en-us"
_LOCAL = threading.local()

PASSES = 5
"""Times that gruut goes through a text at most."""

# words that no step of gruut changes: no capitals alone, which are letters, no Roman numeral, no
# "vs", and no apostrophe at an end, which may be a quote
PLAIN = re.compile(r"(?![Vv]s)(?![A-Z]{2,}$)[A-Za-z]+(?:'[A-Za-z]+)*")


class Lexicon:
    """gruut's lexicon with an index in memory; what a word sounds like depends on nothing else.

    gruut reads the whole table for every word, and remembers spellings so that a word in capitals
    is known the second time.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._table = sqlite3.connect(":memory:", check_same_thread=False)
        source = sqlite3.connect(str(path))
        source.backup(self._table)
        source.close()
        self._table.execute("CREATE INDEX words ON word_phonemes (word)")
        self.entry = lru_cache(maxsize=1 << 16)(self._entry)
        self.spelt = lru_cache(maxsize=1 << 16)(self._spelt)

    def _entry(self, word: str) -> dict[str, list[str]]:
        """Phonemes of a spelling by its role, the first of each; empty where it is not known."""
        query = "SELECT role, phonemes FROM word_phonemes WHERE word = ? ORDER BY pron_order"
        roles: dict[str, list[str]] = {}
        with self._lock:
            for role, phonemes in self._table.execute(query, (word,)):
                roles.setdefault(role, phonemes.split())
        return roles

    def __call__(
        self, word: str, role: str | None = None, do_transforms: bool = True
    ) -> list[str] | None:
        """Phonemes of ``word`` in a role such as "gruut:NN"; None where it is not known."""
        roles = self.roles(word, do_transforms)
        if not roles:
            return None
        return list(roles.get(role or "", roles.get("", next(iter(roles.values())))))

    def roles(self, word: str, do_transforms: bool = True) -> dict[str, list[str]]:
        """Phonemes by role of the first spelling of ``word`` that the table has."""
        if do_transforms:
            return self.spelt(word)
        return self.entry(word) if word else {}

    def _spelt(self, word: str) -> dict[str, list[str]]:
        from gruut.utils import remove_non_word_chars

        low = word.lower()
        spellings = (word, low, remove_non_word_chars(word), remove_non_word_chars(low))
        return next((roles for each in spellings if each and (roles := self.entry(each))), {})


@lru_cache(maxsize=1)
def lexicon() -> Lexicon:
    """The lexicon inside gruut's package."""
    from gruut.utils import find_lang_dir

    folder = find_lang_dir(LANGUAGE)
    assert folder is not None
    return Lexicon(Path(folder) / "lexicon.db")


class Token(NamedTuple):
    """A word or a mark, as gruut's ``Word`` has it."""

    text: str
    phonemes: Sequence[str] | None = None
    is_minor_break: bool = False
    is_major_break: bool = False


class Leaf(NamedTuple):
    """What becomes of a word as it is written: a word to pronounce, or a mark."""

    token: Token
    role: str | None
    """The role of a word, such as a letter's; None of a mark."""


def sentences() -> Callable[..., list[list[Token]]]:
    """What gruut's ``sentences`` gives, much faster; see ``Reader``."""
    return _spoken


def _spoken(text: str, lang: str) -> list[list[Token]]:
    if not hasattr(_LOCAL, "reader"):
        # its models are not made for several threads; gruut is imported here, which takes a second
        _LOCAL.reader = Reader()
    return _LOCAL.reader(text)


@lru_cache(maxsize=1 << 16)
def _guessed(word: str) -> tuple[str, ...]:
    return tuple(_LOCAL.reader.settings.guess_phonemes(word) or ())


@lru_cache(maxsize=1 << 14)
def _leaves(written: str) -> tuple[Leaf, ...]:
    return _LOCAL.reader.cut(written)


@lru_cache(maxsize=1 << 15)
def _features(word: str, prefix: str = "") -> dict[str, Any]:
    return _LOCAL.reader.features(word, prefix=prefix)


class Reader:
    """gruut's text processor, one word after another.

    gruut keeps a text as a graph and goes through all of it for each of thirty steps. No step
    looks at more than one word with the blank behind it but three: the end of a sentence, parts
    of speech, and the letters behind a time, which is never one here. So each written word is cut
    once, by gruut's steps, and remembered; parts of speech are asked for where they decide.
    """

    def __init__(self) -> None:
        from gruut import const, utils
        from gruut.pos import PartOfSpeechTagger

        self.processor = at = _processor()
        self.settings = at.get_settings(LANGUAGE)
        self.features = PartOfSpeechTagger.local_features
        self._const, self._leaves_of = const, utils.leaves
        # the steps that look at words, in gruut's order
        self._splits = (
            at._split_replacements, at._split_punctuations, at._split_minor_breaks,
            at._split_abbreviations, at._split_initialism, at._split_major_breaks,
            at._break_words, at._split_ignore_non_words,
        )  # fmt: skip
        # loaded by the first call
        self.settings.get_parts_of_speech(["a"])
        self._tag = self.settings.get_parts_of_speech.tagger.crf_tagger.tag

    def __call__(self, text: str) -> list[list[Token]]:
        """The tokens of each sentence."""
        spoken: list[list[Leaf]] = []
        ended = True
        for written in self.settings.split_words(text):
            if ended:
                spoken.append([])
            leaves = _leaves(written)
            spoken[-1] += leaves
            ended = any(leaf.token.is_major_break for leaf in leaves)
        return [self._pronounced(sentence) for sentence in spoken]

    def cut(self, written: str) -> tuple[Leaf, ...]:
        """What gruut makes of a word as it is written, with the blanks around it."""
        word = self.settings.normalize_whitespace(written)
        if PLAIN.fullmatch(word):
            return (Leaf(Token(word), ""),)
        if any(map(str.isdigit, written)):
            # dates and numbers make words of their own
            graph, root = self.processor.process(written, pos=False, phonemize=False)
            return tuple(filter(None, map(self._leaf, self._leaves_of(graph, root))))
        nodes: list[Any] = [
            self._const.WordNode(
                node=0, text=word, text_with_ws=written, implicit=True, lang=LANGUAGE,
                in_lexicon=bool(lexicon().entry(word)),
            )
        ]  # fmt: skip
        for _ in range(PASSES):
            before = nodes
            for split in self._splits:
                nodes = [part for node in nodes for part in _parts(split, node)]
            if len(nodes) == len(before) and all(map(operator.is_, nodes, before)):
                break
        return tuple(filter(None, map(self._leaf, nodes)))

    def _leaf(self, node: Any) -> Leaf | None:
        """A leaf of gruut's graph as one of ours; None for what it leaves out."""
        const = self._const
        if isinstance(node, const.WordNode):
            return Leaf(Token(node.text), node.role)
        if isinstance(node, const.BreakWordNode):
            minor = node.break_type == const.BreakType.MINOR
            major = node.break_type == const.BreakType.MAJOR
            return Leaf(Token(node.text, None, minor, major), None)
        is_mark = isinstance(node, const.PunctuationWordNode)
        return Leaf(Token(node.text), None) if is_mark else None

    def _pronounced(self, sentence: list[Leaf]) -> list[Token]:
        words = [leaf.token.text for leaf in sentence if leaf.role is not None]
        known, place = lexicon(), 0
        needed = any(len(known.spelt(word)) > 1 for word in words)
        tags = self._parts_of_speech(words) if needed else ()
        tokens = []
        for token, role in sentence:
            if role is None:
                tokens.append(token)
                continue
            role = role or (f"gruut:{tags[place]}" if tags else "")
            phonemes = known(token.text, role) or _guessed(token.text)
            tokens.append(token._replace(phonemes=phonemes))
            place += 1
        return tokens

    def _parts_of_speech(self, words: Sequence[str]) -> Sequence[str]:
        """gruut's tags of the words of a sentence, from the features that it asks for."""
        features = []
        for place, word in enumerate(words):
            every = dict(_features(word))
            if place == 0:
                every["BOS"] = True
            if place == len(words) - 1:
                every["EOS"] = True
            for away in (-1, -2, 1, 2):
                if 0 <= place + away < len(words):
                    every |= _features(words[place + away], f"{away:+}:")
            features.append(every)
        return self._tag(features)


def _parts(split: Callable[..., Any], node: Any) -> list[Any]:
    """What a step of gruut cuts a node into; the node where it is left alone."""
    return [kind(node=0, **given) for kind, given in split(None, node)] or [node]


def _processor() -> Any:
    import gruut
    from gruut.lang import get_settings

    def never(text: str) -> bool:
        return False

    settings = get_settings(
        LANGUAGE,
        lookup_phonemes=lexicon(),
        # numbers are words by now; gruut would ask babel, and babel the locale of the machine
        currencies={"$": "USD"},
        is_maybe_number=never,
        is_maybe_currency=never,
        is_maybe_date=never,
        is_maybe_time=never,
    )
    return gruut.TextProcessor(default_lang=LANGUAGE, settings={LANGUAGE: settings})
