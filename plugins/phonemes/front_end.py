"""gruut's American English without what depends on the machine or takes long."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

LANGUAGE = "en-us"
_LOCAL = threading.local()


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
        from gruut.utils import remove_non_word_chars

        spellings = [word]
        if do_transforms:
            bare = remove_non_word_chars(word)
            spellings += [word.lower(), bare, remove_non_word_chars(word.lower())]
        for spelling in spellings:
            roles = self.entry(spelling) if spelling else {}
            if roles:
                phonemes = roles.get(role or "", roles.get("", next(iter(roles.values()))))
                return list(phonemes)
        return None


@lru_cache(maxsize=1)
def lexicon() -> Lexicon:
    """The lexicon inside gruut's package."""
    from gruut.utils import find_lang_dir

    folder = find_lang_dir(LANGUAGE)
    assert folder is not None
    return Lexicon(Path(folder) / "lexicon.db")


def sentences() -> Callable[..., Any]:
    """gruut's ``sentences``, imported on first use because it takes a second."""
    return _spoken


def _spoken(text: str, lang: str) -> list[Any]:
    processor = getattr(_LOCAL, "processor", None)
    if processor is None:
        # its models are not made for several threads
        processor = _LOCAL.processor = _processor()
    graph, root = processor(text, lang=lang)
    return list(processor.sentences(graph, root))


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
