"""Suite of text tokenizers."""

from __future__ import annotations

from typing import Any

from wishbone.core.testing.common import Check, Skipped, Violation, require

TEXTS = (
    "Hello.",
    "The quick brown fox, it seems, jumps over 13 lazy dogs!",
    "Dr. O'Neil paid $3.50 at 7:45 p.m.; why?",
    "WORD word wOrD",
)
ODD = (
    "", " ", "\n\t", "\x00", "!?", "...", "-", "'", "\u00e9\u00e8\u00ea", "\u4f60\u597d",
    "\u0645\u0631\u062d\u0628\u0627", "\U0001f600", "a\u0301\u0301\u0301", "\ud83d", "\ufeff",
    "<|endofprompt|>", "x" * 300, "Pneumonoultramicroscopicsilicovolcanoconiosis", "1" * 40,
    "a\u200bb", "\u201cquoted\u201d \u2014 dash\u2026", "e=mc\u00b2", "http://a.b/c?d=e&f",
    "{}[]\\",
)  # fmt: skip


def _build(cls: Any, config: Any) -> Any:
    """The tokenizer; one whose files are in somebody's release is checked where one is named."""
    tokenizer = cls(config)
    if not tokenizer.ready:
        raise Skipped("its files are those of a release, and none is named")
    return tokenizer


def deterministic(cls: Any, config: Any, module: str | None) -> str:
    """The same text gives the same ids, from the same and from another instance, in any order."""
    first, second = _build(cls, config), _build(cls, config)
    before = [first.encode(text) for text in TEXTS]
    for text, ids in zip(TEXTS, before, strict=True):
        require(bool(ids), f"no ids for {text!r}")
    backwards = [second.encode(text) for text in reversed(TEXTS)][::-1]
    require(backwards == before, "another instance, or another order, gives other ids")
    require([first.encode(text) for text in TEXTS] == before, "a second call gives other ids")
    alike = len({tuple(ids) for ids in before}) < len(TEXTS)
    require(not alike, "different texts give the same ids")
    return f"{len(TEXTS)} texts"


def ids_in_range(cls: Any, config: Any, module: str | None) -> str:
    """Ids are plain integers below ``space.vocabulary``, and so are all ids the space names."""
    tokenizer = _build(cls, config)
    limit = tokenizer.space.vocabulary
    for text in (*TEXTS, *ODD):
        for row in tokenizer.encode(text):
            require(type(row) is int, f"{text[:20]!r} gives a {type(row).__name__}, not an int")
            require(0 <= row < limit, f"{text[:20]!r} gives id {row} of {limit}")
    ids = {*tokenizer.space.word_ends, *tokenizer.space.specials.values()}
    outside = [row for row in ids if not 0 <= row < limit]
    require(not outside, f"space names ids {outside}, the vocabulary is {limit}")
    return f"{limit} ids"


def odd_text(cls: Any, config: Any, module: str | None) -> str:
    """No character makes it fail; unspeakable text gives no ids."""
    tokenizer = _build(cls, config)
    for text in ODD:
        try:
            ids = tokenizer.encode(text)
            decoded = tokenizer.decode(ids)
        except Exception as error:
            raise Violation(f"{text[:20]!r} raises {type(error).__name__}: {error}") from error
        require(isinstance(ids, list), f"{text[:20]!r} gives a {type(ids).__name__}")
        require(isinstance(decoded, str), f"decode gives a {type(decoded).__name__}")
    for text in ("", " ", "\n\t"):
        require(tokenizer.encode(text) == [], f"{text!r} gives ids")
    with_odd = tokenizer.encode(f"Hello {ODD[11]} world.")
    require(bool(with_odd), "one odd character silences a whole sentence")
    return f"{len(ODD)} texts"


def words(cls: Any, config: Any, module: str | None) -> str:
    """Each word of a sentence is closed by one id, where a tokenizer has such ids."""
    tokenizer = _build(cls, config)
    ends = tokenizer.space.word_ends
    if not ends:
        return "words cannot be told from ids"
    ids = tokenizer.encode("one two three four five")
    count = sum(row in ends for row in ids)
    require(count in (4, 5), f"5 words, and {count} ids that close one")
    return f"{len(ends)} closing ids"


CHECKS = (
    Check("deterministic", "The same text always gives the same ids.", deterministic),
    Check("ids_in_range", "Every id is below the vocabulary.", ids_in_range),
    Check("odd_text", "No character makes it fail.", odd_text),
    Check("words", "Words are closed by the ids that say so.", words),
)
